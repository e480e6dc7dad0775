"""Predictions of a run for an archive: opens the inputs, predicts them here or on Ray, part by part, and writes one table."""
# N inputs, n of a part, L labels

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import __version__, runs
from cxr_ray.config import Config
from cxr_ray.data import store_check
from cxr_ray.data.store import Store
from cxr_ray.data.store_format import digest_of
from cxr_ray.datasets import pseudonyms
from cxr_ray.errors import UserError
from cxr_ray.imaging.decoder_pool import DecoderPool
from cxr_ray.imaging.files import Root
from cxr_ray.inference import batch_prediction, prediction_file
from cxr_ray.inference.batch_prediction import PredictedBatch
from cxr_ray.inference.decisions import Decisions
from cxr_ray.inference.dicom_sources import DicomSources
from cxr_ray.inference.input_list import InputList, open_inputs
from cxr_ray.inference.loading import load_predictor
from cxr_ray.inference.prediction_file import Shape
from cxr_ray.inference.prediction_parts import PredictionParts, folder_of
from cxr_ray.inference.predictor import Predictor
from cxr_ray.inference.structured_report import ReportedModel, ReportWriter
from cxr_ray.metrics import operating_points, studies
from cxr_ray.models import check_size
from cxr_ray.runtime import machine
from cxr_ray.runtime.progress import Progress
from cxr_ray.runtime.signals import exit_on_sigterm
from cxr_ray.runtime.workers import Workers
from cxr_ray.storage.atomic import make_folder
from cxr_ray.storage.lease import Lease
from cxr_ray.storage.remote import remove_tree, to_local_path
from cxr_ray.workflows import weights
from cxr_ray.workflows.decisions import decisions_of, has_points_by_image_only
from cxr_ray.workflows.evaluation_request import By, unit

BATCH_SIZE = 64


@dataclass(frozen=True)
class Prediction:
    """A finished prediction."""

    path: Path
    """The table that was written."""
    metadata: Mapping[str, Any]
    """What it was made by (docs/reference/formats.md): run, weights, labels, thresholds, versions, numbers of rows and of refused ones."""
    already: bool = False
    """Nothing was done: the table was there, of the same inputs with the same settings."""

    @property
    def table(self) -> pd.DataFrame:
        """The predictions, a row per input: `row` or `image`, `prob/LABEL`, `decision/LABEL`, `refused` and so on."""
        return pd.read_csv(self.path) if self.path.suffix.lower() == ".csv" else pd.read_parquet(self.path)

    @property
    def rows(self) -> int:
        """Number of rows: of inputs, or of studies."""
        return int(self.metadata["rows"])

    @property
    def refused(self) -> int:
        """Number of rows without a prediction; their column `refused` has the reason."""
        return int(self.metadata["refused"])

    @property
    def positives(self) -> dict[str, int]:
        """How many rows each label is decided positive in."""
        return dict(self.metadata["positives"])

    def __repr__(self) -> str:
        return f"Prediction({str(self.path)!r}: {self.rows} rows, {self.refused} refused, by {self.metadata['run']})"


def predict(  # noqa: PLR0913 - the options of the command, all of them by keyword
    run: runs.Run | str | os.PathLike[str],
    inputs: Store | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    part: str | None = None,
    image: str | None = None,
    root: str | os.PathLike[str] | None = None,
    thresholds: operating_points.Rule | None = None,
    by: By = "image",
    combine: studies.Method = "max",
    ids: bool = False,
    hash_key: str | os.PathLike[str] | None = None,
    sr: str | os.PathLike[str] | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = 1,
    address: str | None = None,
    wait: float | None = None,
    gpu: bool | str = "auto",
    plugins: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> Prediction:
    """Predict every image of an archive with a run, an ensemble or a .safetensors file, and write one table, in the order of the inputs.

    `inputs`: a store, a folder of images at any depth, a table with a column of paths (`image`, below `root`), or one image; local or
    a URL. `part`: only these rows of the run's own store. `out`: a Parquet file, or CSV by its ending; docs/reference/formats.md has the columns.
    Files are decoded as the run's store was. An input that cannot be used has a reason in the column `refused`.

    Decisions are made at the operating points of the run's evaluation, else of its config, else at other `thresholds`, as `evaluate`
    takes them. `by="study"`: one row per study, its probabilities combined by `combine` as in an evaluation. `ids`: with patients and
    studies, as the store has them; of files hashed with the secret in `hash_key`. `sr`: a folder for a DICOM structured report of each
    DICOM. With several `workers`, or an `address`, Ray Data predicts with so many actors; on a cluster without room it waits at most `wait`
    minutes (default: without an end in a Ray job, else 10).

    A prediction that was killed goes on when called again with the same arguments. Raises `UserError` if `out` has other predictions, for
    a run without a model, an unknown option, and if no input can be used."""
    if batch_size < 1 or workers < 1:
        raise UserError(f"batch_size and workers must be at least 1, got {batch_size} and {workers}")
    if hash_key is not None and not (ids or by == "study"):
        raise UserError("the hash key is for ids: ask for them too, or leave it out")
    predictor = load_predictor(run, gpu=gpu, plugins=plugins)
    chosen = open_inputs(inputs, run=predictor.run, part=part, image=image, root=root)
    if chosen.store is not None:
        for member in predictor.members:
            check_size(member.image_size, chosen.store.size)  # before there are parts
    if by == "study":
        prediction_file.check_studies(chosen)
    decisions = decisions_of(predictor, thresholds, by=by, combine=combine)
    shape = Shape(decisions, chosen.store is not None, ids, combine if by == "study" else None)
    described = _describe(run, predictor, shape, chosen, reports=sr is not None)
    path, done = prediction_file.check_output(out, described["settings"])
    if done:
        return _already(path, sr, log)
    for note in (*chosen.notes, *_notes(predictor, decisions, by, combine, thresholds)):
        log(f"note: {note}")
    secret = _secret(chosen, hash_key) if ids or by == "study" else None
    chosen = chosen if secret is None else chosen.hashed(secret)
    sources = _sources(chosen, described, decisions, secret, sr)
    make_folder(folder_of(path))
    lease = Lease(folder_of(path), busy=f"{path} is being predicted now", alternative="give another output")
    with exit_on_sigterm(), lease:
        if prediction_file.check_output(out, described["settings"])[1]:  # by another process, since then
            remove_tree(folder_of(path))
            return _already(path, sr, log)
        parts = _parts(path, described, decisions, len(chosen), sources)
        batches = batch_prediction.slices(parts.missing(), batch_size)
        shared = Workers(workers, address, wait)
        if shared.need_ray:
            results = _on_ray(run, predictor, chosen, batches, workers=shared, gpu=gpu, plugins=plugins)
        else:
            results = _here(predictor, chosen, batches)
        _collect(results, parts, len(chosen), sum(map(len, batches)))
        try:
            written = prediction_file.write(path, chosen, parts, shape, described)
        except prediction_file.NoneUsable:
            parts.remove()
            raise
        reports = [] if sources is None or sources.reports is None else sources.summary(parts)
        parts.remove()  # within the lease: later it may be the folder of another process
    for line in reports:
        log(line)
    return Prediction(path, written)


def _already(path: Path, sr: str | os.PathLike[str] | None, log: Callable[[str], None]) -> Prediction:
    """The finished prediction that is there."""
    log(f"nothing to do: {path} has these predictions already; delete it to predict again")
    if sr is not None:
        folder = to_local_path(sr, "folder of reports").absolute()
        count = sum(1 for _ in folder.glob("*.dcm"))
        log(
            f"reports: {count:,} files in {folder}, none written now"
            if count
            else f"note: {folder} has no reports: they were written to another folder, or deleted; delete {path} to write them again"
        )
    return Prediction(path, prediction_file.read_metadata(path), already=True)


def _parts(
    path: Path, described: Mapping[str, Any], decisions: Decisions, count: int, sources: DicomSources | None
) -> PredictionParts:
    settings, labels = described["settings"], decisions.labels
    if sources is None:
        return PredictionParts(path, settings, labels, count=count)
    return PredictionParts(path, settings, labels, count=count, finish=sources.columns, is_whole=sources.is_whole)


def _collect(results: Generator[PredictedBatch, None, None], parts: PredictionParts, count: int, missing: int) -> None:
    """Put all results into parts, and show progress."""
    done, refused = count - missing, 0
    with Progress("predict") as progress, closing(results) as batches:
        progress(done, count)
        for batch in batches:
            refused += parts.add(batch)
            done += len(batch.positions)
            progress(done, count, f"{refused:,} rejected" if refused else "")


def _here(
    predictor: Predictor, inputs: InputList, batches: Sequence[npt.NDArray[np.int64]]
) -> Generator[PredictedBatch, None, None]:
    """Predictions by this process. Files are decoded by processes on all cores."""
    if not batches:
        return
    if inputs.store is not None:
        assert inputs.rows is not None
        store, verify = inputs.store, _config_of(predictor).data.verify
        read = batch_prediction.read_rows(store, inputs.rows, batches)
        of_rows = (("here", batch_prediction.predict(predictor, decoded)) for decoded in read)
        yield from store_check.once_checked(of_rows, lambda node: store_check.start(store, verify))
        return
    assert inputs.root is not None
    wanted = predictor.image_format
    processes = min(machine.cores(), sum(map(len, batches)))
    with DecoderPool(processes, vars(wanted)) as pool:
        pool.start()
        images = batch_prediction.read_files(pool, Root(inputs.root), inputs.names, batches, wanted)
        with closing(images), closing(batch_prediction.predict_among_decoders(predictor, images)) as results:
            yield from results


def _on_ray(
    run: Any,
    predictor: Predictor,
    inputs: InputList,
    batches: Sequence[npt.NDArray[np.int64]],
    *,
    workers: Workers,
    gpu: bool | str,
    plugins: Sequence[str],
) -> Generator[PredictedBatch, None, None]:
    """Predictions by actors. Raises `UserError` for what is not a folder or a file that they can open."""
    if not batches:
        return
    from cxr_ray.on_ray import predict as on_ray

    where = run.path if isinstance(run, runs.Run) else Path(run)
    config = _config_of(predictor)
    job = on_ray.PredictJob(
        model=str(where.absolute()),
        store=None if inputs.store is None else inputs.store.origin,
        root=None if inputs.root is None else str(inputs.root),
        image_format=predictor.image_format,
        cache=config.data.cache,
        verify=config.data.verify,
        plugins=tuple(plugins),
        gpu=gpu,
        threads=max(1, machine.cores() // workers.number),
    )
    keys = inputs.rows if inputs.rows is not None else inputs.names
    yield from on_ray.predict_batches(job, keys, batches, workers)


def _config_of(predictor: Predictor) -> Config:
    """The config of the run; the default one for a file of weights."""
    return predictor.run.config if predictor.run is not None else Config()


def _describe(run: Any, predictor: Predictor, shape: Shape, inputs: InputList, *, reports: bool) -> dict[str, Any]:
    """The metadata of the output, without its numbers of rows. Predictions with equal `settings` are equal."""
    decisions = shape.decisions
    settings = {
        "inputs": inputs.digest,
        "weights": weights.digests_of(Path(run) if predictor.run is None else predictor.run),
        "labels": list(decisions.labels),
        "task": decisions.task,
        **decisions.describe(),
        "by": "image" if shape.by_study is None else unit("study", shape.by_study),
        "ids": shape.ids,
        "reports": reports,
        "check": [None if each.check is None else digest_of(dict(each.check.thresholds)) for each in predictor.members],
    }
    if inputs.store is None:
        settings["image_format"] = {**vars(predictor.image_format), "size": list(predictor.image_format.size)}
    name = Path(run).stem if predictor.run is None else predictor.run.path.name
    versions = {"cxr_ray": __version__, "torch": metadata.version("torch")}
    described = {
        name: settings[name] for name in ("weights", "labels", "task", "decision", "thresholds", "calibration", "by")
    }
    return {"run": name, **described, "versions": versions, "settings": settings}


def _notes(
    predictor: Predictor,
    decisions: Decisions,
    by: By,
    combine: studies.Method,
    thresholds: operating_points.Rule | None,
) -> list[str]:
    run = predictor.run
    if run is None:
        return []
    notes = []
    command = "cxr-ray evaluate" + (f" --by study --combine {combine}" if by == "study" else "")
    if decisions.calibrate is None:
        notes.append(
            f"no calibrated probabilities: {run.path.name} has no calibrator by {by} (`{command}` may fit one on val)"
        )
    if thresholds is None and decisions.thresholds and has_points_by_image_only(run, by, combine):
        notes.append(
            f"decisions by study are at {decisions.rule}: the operating points of {run.path.name} are by image (`{command}` chooses "
            "them by study)"
        )
    return notes


def _secret(inputs: InputList, hash_key: str | os.PathLike[str] | None) -> bytes | None:
    """The key of the hashes of patients and studies; None for a store, whose ids stay as they are."""
    if inputs.root is None:
        return None
    # Of a table or a file the root is only where it lies: the home folder, which has the default key too.
    outside = inputs.root if inputs.searched or hash_key is not None else None
    return pseudonyms.load_key(None if hash_key is None else Path(hash_key), outside=outside)


def _sources(
    inputs: InputList,
    described: Mapping[str, Any],
    decisions: Decisions,
    secret: bytes | None,
    sr: str | os.PathLike[str] | None,
) -> DicomSources | None:
    """What reads the headers of DICOMs among the files, if that is asked for. Raises `UserError` for reports of a store."""
    if inputs.root is None and sr is not None:
        raise UserError(
            "reports are written for DICOM files, and a store has none: give the DICOMs as input, or remove --sr"
        )
    if inputs.root is None or (secret is None and sr is None):
        return None
    writer = None
    if sr is not None:
        folder = to_local_path(sr, "folder of reports").absolute()
        if inputs.searched and isinstance(inputs.root, Path) and folder.resolve().is_relative_to(inputs.root.resolve()):
            raise UserError(
                f"{folder} is in the input, where reports would be inputs of the next prediction; give a folder outside"
            )
        make_folder(folder)
        writer = ReportWriter(folder, _reported(described, decisions))
    return DicomSources(Root(inputs.root), inputs.names, secret, writer, decisions)


def _reported(described: Mapping[str, Any], decisions: Decisions) -> ReportedModel:
    return ReportedModel(
        name=described["run"],
        version=weights.version_of(described["weights"]),
        software=f"cxr_ray {__version__}",
        labels=decisions.labels,
        thresholds=decisions.thresholds,
        rule=decisions.rule,
        is_calibrated=decisions.calibrate is not None,
        digest=digest_of({k: v for k, v in described["settings"].items() if k != "inputs"}),
    )
