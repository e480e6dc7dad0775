"""Explain a trained model on images, from Python and for the command: maps, certificates, figures and a page."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from cxr_ray import runs
from cxr_ray.config import Config
from cxr_ray.data.store import Store
from cxr_ray.errors import UserError
from cxr_ray.explanation import image_selection, results
from cxr_ray.explanation.explainer import NOTEBOOK, PREDICTED, Explainer, MapBatch, default_methods
from cxr_ray.explanation.image_selection import Selection
from cxr_ray.explanation.maps_file import MapsWriter, open_maps
from cxr_ray.explanation.results import SHOWN, Explanation
from cxr_ray.inference.inputs import Images
from cxr_ray.inference.loading import load_predictor
from cxr_ray.inference.predictor import Predictor
from cxr_ray.models import Classifier
from cxr_ray.models.serialization import SavedModel
from cxr_ray.plotting import plots
from cxr_ray.report import explain_page
from cxr_ray.report.render import file_name
from cxr_ray.runtime import machine
from cxr_ray.runtime.context import pick_device
from cxr_ray.runtime.progress import Progress
from cxr_ray.runtime.signals import exit_on_sigterm
from cxr_ray.runtime.workers import Workers
from cxr_ray.storage.atomic import check_replaceable, replace_folder
from cxr_ray.storage.remote import to_local_path
from cxr_ray.workflows import map_scores, result_folders
from cxr_ray.workflows.map_scores import MapScores

AnyModel: TypeAlias = runs.Run | Predictor | Classifier | str | os.PathLike[str]
BATCH_SIZE = 16
PAGE, MAPS, CERTIFICATES, SCORES = "explain.html", "maps.npz", "certificates.csv", "scores.csv"
MANY = 64
"""Images from which on progress is shown."""


def explain(  # noqa: PLR0913 - the options of the command, all of them by keyword
    run_or_model: AnyModel,
    images: Images | Store | None = None,
    *,
    methods: str | Sequence[str] | None = None,
    target: str | Sequence[str] = PREDICTED,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    rows: Sequence[int] | None = None,
    class_name: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    out: str | os.PathLike[str] | None = None,
    scale: float | None = None,
    boxes: str | os.PathLike[str] | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = 1,
    address: str | None = None,
    wait: float | None = None,
    gpu: bool | str = "auto",
    plugins: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> Explanation:
    """Maps of what a model's output depends on, pixel by pixel, with certificates where a method has them.

    `run_or_model`: a run or its folder, an ensemble (each member and the mean), a .safetensors file, a predictor or a classifier.
    `images`: by default those of the run's store, else another store, files, a folder of files, arrays or Pillow images. Of a store
    `rows` by number, or the first `limit` (default 32) of the part `split`, of those that are positive for `class_name` if it is
    given. `methods`: names (default: saliency, lrp_epsilon and lrp_alphabeta, where they are valid for the network), with `options`
    by method such as {"lrp_epsilon": {"epsilon": 0.01}}. `target`: the label to explain, several, "all", or "predicted": each image's
    own highest output. `scale`: end of the colour scales, by default a quantile of a method's values. `boxes`: annotations of the run's
    store to score the methods against (a file, or "stored"), for the page. With several `workers`, or an `address`, the maps of a store
    are computed by Ray Data, on this machine or on that cluster, where room is waited for at most `wait` minutes (default: without an end
    in a Ray job, else 10).

    With `out` everything is written to that folder (docs/reference/formats.md), `maps` are memory-mapped from it and only the first 32 maps have
    pictures. Raises `UserError` for unknown names, for images that cannot be explained, and for a method that cannot serve the network."""
    predictor = open_predictor(run_or_model, gpu=gpu, plugins=plugins)
    explainer = Explainer(predictor, chosen_methods(predictor, methods, log), target=target, options=options)
    chosen = image_selection.select(predictor, images, rows=rows, class_name=class_name, split=split, limit=limit)
    check_scale(scale)
    batches = map_batches(
        run_or_model, explainer, chosen, batch_size, workers=Workers(workers, address, wait), gpu=gpu, plugins=plugins
    )
    name = model_name(run_or_model, predictor)
    if out is None:
        if boxes is not None:
            raise UserError("scores are shown on the page: give out, or use cxr_ray.workflows.map_scores")
        return results.collect(name, list(batches), scale=scale)
    folder = to_local_path(out, "folder of maps")
    check_replaceable(folder, marker=PAGE)
    scores = None if boxes is None else score_boxes(explainer, chosen, boxes, split, batch_size)
    settings = settings_of(explainer, chosen, images)
    return write(folder, name, explainer, batches, scale=scale, scores=scores, settings=settings)


def settings_of(explainer: Explainer, chosen: Selection, images: Any) -> dict[str, Any]:
    """What the maps of the chosen images are made with, for `result_folders`."""
    return result_folders.described(
        images,
        methods=explainer.methods,
        options=explainer.options,
        target=explainer.target,
        store=None if chosen.store is None else chosen.store.fingerprint,
        rows=hashlib.sha256(chosen.rows.astype("<i8").tobytes()).hexdigest(),
    )


def score_boxes(
    explainer: Explainer,
    chosen: Selection,
    boxes: str | os.PathLike[str],
    split: str | None,
    batch_size: int = BATCH_SIZE,
) -> MapScores:
    """The methods' scores against annotations of the run's store. Raises `UserError` for pictures and another store."""
    run = explainer.predictor.run
    if chosen.store is None or run is None or chosen.store.fingerprint != run.info["store"]["fingerprint"]:
        raise UserError(
            "scores need the run's own store, whose parts are known: give a run, and no pictures or other store"
        )
    return map_scores.score(explainer, chosen.store, boxes, split=split, batch_size=batch_size)


def open_predictor(run_or_model: AnyModel, *, gpu: bool | str = "auto", plugins: Sequence[str] = ()) -> Predictor:
    """The predictor of a run, a file, or a classifier, whose outputs are then named `output 0` and so on."""
    if isinstance(run_or_model, Predictor):
        return run_or_model
    if isinstance(run_or_model, Classifier):
        labels = tuple(f"output {at}" for at in range(run_or_model.spec.outputs))
        return Predictor(SavedModel(run_or_model, labels, "multilabel", "fp32"), pick_device(gpu))
    if isinstance(run_or_model, torch.nn.Module):
        raise UserError("explain takes a run, a file of weights, or a model of create_model, not another torch module")
    return load_predictor(run_or_model, gpu=gpu, plugins=plugins)


def model_name(run_or_model: AnyModel, predictor: Predictor) -> str:
    """The name of the run, else of the file, else of the architecture."""
    if predictor.run is not None:
        return predictor.run.path.name
    if isinstance(run_or_model, str | os.PathLike):
        return Path(run_or_model).stem
    return predictor.members[0].model.spec.name


def chosen_methods(
    predictor: Predictor, methods: str | Sequence[str] | None, log: Callable[[str], None] = print
) -> tuple[str, ...]:
    """The methods asked for, else the default ones of the network; the log states which of them it cannot have."""
    if methods is not None:
        return (methods,) if isinstance(methods, str) else tuple(methods)
    found = default_methods(predictor)
    if missing := [m for m in NOTEBOOK if m not in found]:
        architectures = ", ".join(dict.fromkeys(m.model.spec.name for m in predictor.members))
        log(
            f"note: {architectures} is explained without {', '.join(missing)}; `cxr-ray models` lists what is valid for it"
        )
    return found


def check_scale(scale: float | None) -> float | None:
    """`scale`, if it can be the end of a colour scale. Raises `UserError`."""
    if scale is not None and not (0.0 < scale < float("inf")):
        raise UserError(f"the scale must be above 0, got {scale}")
    return scale


def map_batches(
    run_or_model: AnyModel,
    explainer: Explainer,
    chosen: Selection,
    batch_size: int = BATCH_SIZE,
    *,
    workers: Workers | None = None,
    gpu: bool | str = "auto",
    plugins: Sequence[str] = (),
) -> Iterator[MapBatch]:
    """The maps of the chosen images, a batch at a time: from this process, or from Ray if the `workers` need it."""
    workers = workers or Workers()
    if workers.need_ray:
        return _from_ray(run_or_model, explainer, chosen, batch_size, workers, gpu, plugins)
    return _from_here(explainer, chosen, batch_size)


def _from_here(explainer: Explainer, chosen: Selection, batch_size: int) -> Iterator[MapBatch]:
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    with ExitStack() as stack:
        progress = stack.enter_context(Progress("explaining")) if len(chosen.rows) > MANY else None
        done = 0
        for rows_M, grays_MHW in chosen.batches(batch_size):
            yield explainer(rows_M, grays_MHW)
            done += len(rows_M)
            if progress is not None:
                progress(done, len(chosen.rows))


def _from_ray(
    run_or_model: AnyModel,
    explainer: Explainer,
    chosen: Selection,
    batch_size: int,
    workers: Workers,
    gpu: bool | str,
    plugins: Sequence[str],
) -> Iterator[MapBatch]:
    """The maps of the chosen rows of a store, from actors of Ray Data. Raises `UserError` for pictures and models in memory."""
    if workers.number < 1 or batch_size < 1:
        raise UserError(f"workers and batch_size must be at least 1, got {workers.number} and {batch_size}")
    where = run_or_model.path if isinstance(run_or_model, runs.Run) else run_or_model
    if chosen.store is None or not isinstance(where, str | os.PathLike):
        raise UserError(
            "workers explain the rows of a store by a run or a file of weights; pictures and models in memory need none"
        )
    from cxr_ray.on_ray import explain as on_ray

    outputs = explainer.target if isinstance(explainer.target, str) else tuple(explainer.target)
    run = explainer.predictor.run
    job = on_ray.ExplainJob(
        model=str(Path(where).absolute()), store=chosen.store.origin, methods=explainer.methods, target=outputs,
        cache=(run.config if run is not None else Config()).data.cache, options=explainer.options, plugins=tuple(plugins),
        gpu=gpu, threads=max(1, machine.cores() // workers.number),
    )  # fmt: skip
    with Progress("explaining") as progress:
        done = 0
        for batch in on_ray.map_batches(job, chosen.rows, workers=workers, batch_size=batch_size):
            done += len(set(batch.rows.tolist()))
            progress(min(done, len(chosen.rows)), len(chosen.rows))
            yield batch


def write(
    folder: Path,
    name: str,
    explainer: Explainer,
    batches: Iterator[MapBatch],
    *,
    scale: float | None = None,
    scores: MapScores | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Explanation:
    """Write maps.npz, certificates.csv, the figures, with `scores` also scores.csv, with `settings` settings.json, and explain.html into `folder`, which appears
    complete or not at all."""
    folder = folder.absolute()
    shown: list[MapBatch] = []
    slim: list[MapBatch] = []
    with exit_on_sigterm(), replace_folder(folder, marker=PAGE) as temporary:
        with MapsWriter(temporary, explainer.keys) as writer:
            for batch in batches:
                writer.add(batch)
                if sum(len(one.rows) for one in shown) < SHOWN:
                    shown.append(batch)
                slim.append(replace(batch, images=batch.images[:0], maps={}))
            writer.write(temporary / MAPS)
        first = results.collect(name, shown, scale=scale)
        whole = replace(
            results.collect(name, slim, scale=scale),
            images=first.images[:SHOWN],
            maps={key: maps for key, maps in open_maps(temporary / MAPS).items() if key in explainer.keys},
        )
        whole.certificates.to_csv(temporary / CERTIFICATES, index=False)
        for figure, draw in whole.figures().items():
            (temporary / file_name(figure)).write_bytes(plots.png(draw()))
        if settings is not None:
            result_folders.write_settings(temporary, settings)
        if scores is not None:
            scores.table.to_csv(temporary / SCORES, index=False)
            whole = replace(whole, scores=scores.wide, verdict=scores.verdict)
        explain_page.write(whole, temporary / PAGE, scores=scores.for_page if scores is not None else None)
    maps = {key: array for key, array in open_maps(folder / MAPS).items() if key in explainer.keys}
    return replace(whole, maps=maps, page=folder / PAGE)
