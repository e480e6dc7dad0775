"""Predictions of many inputs on Ray: Ray Data decodes files on CPUs and feeds actors that hold the model. What a batch is, and what is
computed of it, is in inference/batch_prediction.py.
"""
# n inputs of a batch, m of them usable, H x W pixels, L labels

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy

from cxr_ray.data import store as stores
from cxr_ray.data import store_check
from cxr_ray.data.store_format import ImageFormat
from cxr_ray.errors import UserError
from cxr_ray.imaging.decoder_pool import DecoderPool
from cxr_ray.imaging.files import Root
from cxr_ray.inference import batch_prediction
from cxr_ray.inference.batch_prediction import DecodedBatch, PredictedBatch
from cxr_ray.inference.loading import load_predictor
from cxr_ray.on_ray import cluster, data_context, room
from cxr_ray.on_ray.node_check import NodeCheck
from cxr_ray.runtime import machine
from cxr_ray.runtime.workers import Workers

DECODER_CPUS = 0.5
"""CPUs that Ray counts for a decoder: it shares a core with a model, which waits for it or makes it wait."""
PROB = "prob"
"""Start of the names of the columns of probabilities, which have the numbers of the outputs."""


@dataclass(frozen=True)
class PredictJob:
    """What every actor needs, in plain values."""

    model: str
    """Folder of a run, or a file of weights, that every node sees."""
    image_format: ImageFormat
    """How files are decoded."""
    store: str | None = None
    """Where the store is, as `Store.origin`; None for files."""
    root: str | None = None
    """Folder of the files; None for a store."""
    cache: str = "auto"
    """As `data.cache`."""
    verify: str = "background"
    """As `data.verify`: whether each node checks the bytes of the store."""
    plugins: tuple[str, ...] = ()
    gpu: bool | str = "auto"
    threads: int = 1
    """CPU threads of an actor."""


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
    if cluster.is_local(workers.address) and workers.number > machine.cores():
        raise UserError(
            f"{workers.number} workers are asked for, but this machine has {machine.cores()} cores; lower the workers"
        )
    own_cpus = max(
        2 * workers.number, os.cpu_count() or 1
    )  # of a Ray of ours: a core for each model, and as much for decoding
    quiet = data_context.quiet(preserve_order=True, op_resource_reservation_enabled=False)
    with cluster.session(workers.address, num_cpus=own_cpus) as is_own, quiet:
        on_gpu = room.uses_gpu(job.gpu)
        if not is_own:
            room.ensure({"CPU": 1.0, "GPU": float(on_gpu)}, 1, wait=workers.wait, log=print)
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
        results = data.map_batches(
            _Model,
            fn_constructor_args=(job,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(workers.number, len(blocks))),
            num_cpus=1,
            num_gpus=1 if on_gpu else 0,
        )
        blocks = results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
        yield from store_check.once_checked(_by_node(blocks), lambda node: _check_on(node, job))


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
        import torch

        torch.set_num_threads(job.threads)
        self._format, self._node = job.image_format, ray.get_runtime_context().get_node_id()
        self._predictor = load_predictor(job.model, gpu=job.gpu, plugins=job.plugins)
        self._store = None if job.store is None else stores.open(job.store, verify="none", cache=job.cache)

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
