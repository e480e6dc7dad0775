"""The maps of a store's images on Ray: Ray Data divides the rows, actors hold the model. The maps themselves are in explanation/."""
# N maps, H x W pixels of the network's input

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import ray

from cxr_ray.explanation.explainer import Explainer, MapBatch
from cxr_ray.on_ray import model_actors
from cxr_ray.on_ray.model_actors import ModelJob
from cxr_ray.runtime.workers import Workers

MAP = "map/"
"""Prefix of the columns that hold maps."""


@dataclass(frozen=True, kw_only=True)
class ExplainJob(ModelJob):
    """The fields mean what those of `workflows.explain.explain` do."""

    methods: tuple[str, ...]
    target: str | tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def map_batches(
    job: ExplainJob, rows_M: npt.NDArray[np.int64], *, workers: Workers, batch_size: int
) -> Iterator[MapBatch]:
    """The maps of these rows of the store, in their order, from so many actors. Ray is started here, or used at the address of `workers`.

    At most a few batches per actor are in memory at once. Raises `UserError` as an `Explainer` does, and if there are too few CPUs."""
    with model_actors.started(job, workers) as actors:
        blocks = [rows_M[at : at + batch_size] for at in range(0, len(rows_M), batch_size)]
        rows = ray.data.from_numpy(blocks)
        maps = actors.map(rows, _Actor, blocks=len(blocks), batch_size=batch_size, batch_format="numpy")
        for block in maps.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
            yield _from_columns(cast(dict[str, Any], block), job.methods)


class _Actor:
    """An explainer that stays open. Called with row numbers, it returns the columns of their maps."""

    def __init__(self, job: ExplainJob) -> None:
        self._explainer = Explainer(job.predictor(), job.methods, target=job.target, options=job.options)
        self._store = job.open_store()

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        (rows_M,) = batch.values()
        return _to_columns(self._explainer(rows_M, self._store.images(rows_M)))


def _to_columns(batch: MapBatch) -> dict[str, Any]:
    """A batch as columns with one entry per map: Ray Data may cut between them."""
    keys = list(zip(batch.rows.tolist(), batch.labels, strict=True))
    own: dict[tuple[int, str], list[dict[str, Any]]] = {key: [] for key in keys}
    for certificate in batch.certificates:
        own[certificate["row"], certificate["label"]].append(certificate)
    return {
        "row": batch.rows,
        "label": np.asarray(batch.labels, dtype=object),
        "logit": batch.logits,
        "probability": batch.probabilities,
        "image": batch.images,
        "certificates": np.asarray([json.dumps(own[key], default=_plain) for key in keys], dtype=object),
        "identities": np.asarray([json.dumps(batch.identities)] * len(keys), dtype=object),
        **{MAP + name: maps for name, maps in batch.maps.items()},
    }


def _plain(value: Any) -> Any:
    """A number of numpy as Python's, for JSON."""
    return value.item()


def _from_columns(columns: Mapping[str, npt.NDArray[Any]], methods: Sequence[str]) -> MapBatch:
    """The inverse of `_to_columns`, with certificates by method as an `Explainer` orders them."""
    certificates = [one for text in columns["certificates"] for one in json.loads(text)]
    names = list(dict.fromkeys(one["method"] for one in certificates))
    order = {name: at for at, name in enumerate(sorted(names, key=lambda name: _place(name, methods)))}
    return MapBatch(
        images=np.stack(list(columns["image"])),
        rows=np.asarray(columns["row"], np.int64),
        labels=[str(label) for label in columns["label"]],
        logits=np.asarray(columns["logit"], np.float32),
        probabilities=np.asarray(columns["probability"], np.float32),
        maps={
            name.removeprefix(MAP): np.stack(list(values)) for name, values in columns.items() if name.startswith(MAP)
        },
        certificates=sorted(certificates, key=lambda one: order[one["method"]]),
        identities=json.loads(columns["identities"][0]),
    )


def _place(name: str, methods: Sequence[str]) -> tuple[int, str]:
    """Where the certificates of a method, or of METHOD/MEMBER, come."""
    method = name.partition("/")[0]
    return (list(methods).index(method) if method in methods else len(methods), name)
