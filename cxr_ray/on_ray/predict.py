"""Predictions of many inputs on Ray: Ray Data decodes files on CPUs and feeds actors that hold the model. What a batch is, and what is
computed of it, is in inference/batch_prediction.py.
"""
# n inputs of a batch, m of them usable, H x W pixels, L labels

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy

from cxr_ray.data import store_check
from cxr_ray.data.store_format import ImageFormat
from cxr_ray.imaging.decoder_pool import DecoderPool
from cxr_ray.imaging.files import Root
from cxr_ray.inference import batch_prediction
from cxr_ray.inference.batch_prediction import DecodedBatch, PredictedBatch
from cxr_ray.on_ray import model_actors
from cxr_ray.on_ray.model_actors import ModelJob
from cxr_ray.on_ray.node_check import NodeCheck
from cxr_ray.runtime.workers import Workers

DECODER_CPUS = 0.5
"""CPUs that Ray counts for a decoder: it shares a core with a model, which waits for it or makes it wait."""
PROB = "prob"
"""Start of the names of the columns of probabilities, which have the numbers of the outputs."""


@dataclass(frozen=True, kw_only=True)
class PredictJob(ModelJob):
    """Of the rows of a store, or of files."""

    image_format: ImageFormat
    """How files are decoded."""
    root: str | None = None
    """Folder of the files; None for a store."""
    verify: str = "background"
    """As `data.verify`: whether each node checks the bytes of the store."""


def predict_batches(
    job: PredictJob,
    keys: npt.NDArray[np.int64] | Sequence[str],
    batches: Sequence[npt.NDArray[np.int64]],
    workers: Workers,
) -> Iterator[PredictedBatch]:
    """The results of `batches` (places in `keys`: rows of the store, or names of files), in order, from so many actors. Ray is started
    here, or used at the address of `workers`.

    Those of a store are given once its bytes are checked on the node that read them. Raises `UserError` as a predictor does, for changed
    bytes, and if there are too few CPUs."""
    settings = {"op_resource_reservation_enabled": False}
    # In a Ray of ours a core for each model, and as much for decoding.
    with model_actors.started(job, workers, cpus_each=2, **settings) as actors:
        blocks = [pa.table({"position": batch, "key": _keys(keys, batch)}) for batch in batches]
        data: Any = ray.data.from_arrow(blocks)
        if job.root is not None:
            data = data.map_batches(
                _Decoder,
                fn_constructor_args=(job,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=min(_decoders(workers.number), len(blocks))),
                num_cpus=DECODER_CPUS,
            )
        results = actors.map(data, _Model, blocks=len(blocks), batch_size=None, batch_format="pyarrow")
        predicted = results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
        yield from store_check.once_checked(_by_node(predicted), lambda node: _check_on(node, job))


def _check_on(node: str, job: PredictJob) -> store_check.Check | None:
    if job.store is None or job.verify not in store_check.EVERY_BYTE:
        return None
    return NodeCheck(node, job.store, job.cache)


def _decoders(workers: int) -> int:
    """Number of decoders: as many as the CPUs that the models leave, at least one per model."""
    return max(workers, int(ray.cluster_resources().get("CPU", 1)) - workers)


def _keys(keys: npt.NDArray[np.int64] | Sequence[str], batch: npt.NDArray[np.int64]) -> pa.Array:
    if isinstance(keys, np.ndarray):
        return pa.array(keys[batch])
    return pa.array([keys[at] for at in batch.tolist()], pa.string())


class _Decoder:
    """Decodes the files of a batch in a process of its own, which may crash."""

    def __init__(self, job: PredictJob) -> None:
        assert job.root is not None
        self._format, self._root = job.image_format, Root(job.root)
        self._pool = DecoderPool(1, vars(job.image_format))

    def __call__(self, block: pa.Table) -> pa.Table:
        images = list(self._pool.decode_each(self._root, block["key"].to_pylist()))
        return _decoded_table(batch_prediction.collect(block["position"].to_numpy(), images, self._format))


class _Model:
    """A predictor that stays open, with the store if there is one."""

    def __init__(self, job: PredictJob) -> None:
        self._format, self._node = job.image_format, ray.get_runtime_context().get_node_id()
        self._predictor = job.predictor()
        self._store = None if job.store is None else job.open_store()

    def __call__(self, block: pa.Table) -> pa.Table:
        if self._store is None:
            batch = _decoded_batch(block, self._format)
        else:
            places = np.arange(block.num_rows)
            (read,) = batch_prediction.read_rows(self._store, block["key"].to_numpy(), [places])
            batch = replace(read, positions=block["position"].to_numpy())
        return _predicted_table(batch_prediction.predict(self._predictor, batch), self._node)


# ---- batches as tables, with a row per input: Ray Data may cut between them


def _decoded_table(batch: DecodedBatch) -> pa.Table:
    images, aspects = iter(batch.grays), iter(batch.aspects.tolist())
    return pa.table(
        {
            "position": batch.positions,
            "refused": pa.array(batch.refused, pa.string()),
            "pixels": pa.array(
                [next(images).tobytes() if reason is None else None for reason in batch.refused], pa.large_binary()
            ),
            "aspect": pa.array([next(aspects) if reason is None else None for reason in batch.refused], pa.float64()),
        }
    )


def _decoded_batch(block: pa.Table, image_format: ImageFormat) -> DecodedBatch:
    pixels = block["pixels"].drop_null().to_pylist()
    kind = np.uint8 if image_format.depth == 8 else np.float32
    return DecodedBatch(
        block["position"].to_numpy(),
        np.frombuffer(b"".join(pixels), kind).reshape(len(pixels), *image_format.size),
        tuple(block["refused"].to_pylist()),
        block["aspect"].drop_null().to_numpy(),
    )


def _predicted_table(batch: PredictedBatch, node: str) -> pa.Table:
    return pa.table(
        {
            "node": pa.array([node] * len(batch.positions)),
            "position": batch.positions,
            "refused": pa.array(batch.refused, pa.string()),
            "score": batch.scores,
            **{f"{PROB}{at}": column for at, column in enumerate(batch.probabilities.T)},
        }
    )


def _by_node(blocks: Iterable[pa.Table]) -> Iterator[tuple[str, PredictedBatch]]:
    """The batches, each with the node that predicted it."""
    for block in blocks:
        for node in pc.unique(block["node"]).to_pylist():
            yield node, _predicted_batch(block.filter(pc.equal(block["node"], node)))


def _predicted_batch(block: pa.Table) -> PredictedBatch:
    names = [name for name in block.column_names if name.startswith(PROB)]
    return PredictedBatch(
        block["position"].to_numpy(),
        np.stack([block[name].to_numpy() for name in names], axis=1),
        tuple(block["refused"].to_pylist()),
        block["score"].to_numpy(),
    )
