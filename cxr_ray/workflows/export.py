"""Export a run: the file, its check against the run, and the model card. The programs are made in inference/export.py."""
# N images, L labels

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from cxr_ray.config.image_sizes import read_size
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.inference import embedder
from cxr_ray.inference import export as exporting
from cxr_ray.inference.predictor import Ensemble, Predictor
from cxr_ray.models import serialization
from cxr_ray.report import model_card
from cxr_ray.runs import Run, load
from cxr_ray.storage.atomic import make_folder, write_atomic
from cxr_ray.storage.remote import to_local_path
from cxr_ray.workflows import weights

CHECKED_IMAGES = 32
"""Rows of the store, or synthetic images, that a file is compared on with the run."""
RESEARCH_USE = "research and teaching only; not a medical device"


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    path: Path
    card: Path
    """The model card, Markdown."""
    format: Literal["pt2", "onnx"]
    size: tuple[int, int]
    """Height and width of its input in pixels."""
    difference: float
    """Largest difference of a probability from the run's in fp32."""
    checked_on: str
    """The images of that comparison."""
    metadata: dict[str, Any]
    """As it is in the file."""


def export(
    run: Run | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: Literal["pt2", "onnx"] | None = None,
    size: int | tuple[int, int] | None = None,
    plugins: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> Exported:
    """Write a run, or an ensemble (the mean of its members), as one file that needs no cxr_ray, and `OUT.md`, its model card.

    The program takes gray values uint8 [N, H, W] with any N (float32 of 0 to 255 if the store has 16 bits) and gives probabilities
    float32 [N, L]. `format`: by default that of the ending of `out`, .pt2 or .onnx. `size`: H and W, or one number for both, by default those of the store's
    images, which the program resizes as the run does; files have to be decoded and resized to it before, as the card says. It is
    compared with the run in fp32 on rows of its store, or on synthetic images if there is no store, and not written if a probability
    differs by more than 1e-4. `plugins` as for `load_model`. Raises `UserError`, also for a network that torch cannot export."""
    found = load(run)
    found.load_plugins(plugins)
    found.check_trained()
    path, form = _target(out, format)
    members = [embedder.saved_model(member) for member in found.members or [found]]
    store = _store_of(found)
    if size is None:
        size = store.size if store is not None else _largest(members)
    size_HW = read_size(size, name="size")
    if store is None:
        log(f"note: the store is not at {found.info['store']['path']}: the input is {size_HW[0]} x {size_HW[1]} pixels")
    about = _metadata(found, members, size_HW, store)
    if not about["thresholds"]:
        log(f"note: {found.path.name} has no operating points yet; `cxr-ray evaluate {found.path}` writes them")
    dtype = torch.float32 if about["input"]["dtype"] == "float32" else torch.uint8
    body = exporting.to_bytes(exporting.Deployed(members), form, size=size_HW, dtype=dtype, metadata=about)
    images, checked_on = _images(found, store, size_HW, dtype)
    expected = _in_fp32(found).probabilities(images)
    difference = exporting.largest_difference(exporting.open_program(body, form), images, expected)
    if difference > exporting.TOLERANCE:
        raise UserError(
            f"the exported program differs from the run by up to {difference:.2g} on {checked_on}, more than "
            f"{exporting.TOLERANCE:g}, so {path.name} was not written; export the other format, or report this"
        )
    text = model_card.markdown(
        found,
        about,
        file=model_card.ExportedFile(
            path.name, form, len(body), hashlib.sha256(body).hexdigest(), difference, checked_on
        ),
        architectures=[member.model.describe() for member in members],
    )
    card = path.with_name(f"{path.name}.md")
    make_folder(path.parent)
    write_atomic(path, body)
    write_atomic(card, text)
    return Exported(path, card, form, size_HW, difference, checked_on, about)


def _in_fp32(run: Run) -> Predictor:
    """The predictor of a run on the CPU, in the precision of an export. It has weights of its own, in its own layout."""
    members = [embedder.saved_model(member) for member in run.members or [run]]
    predictors = [Predictor(replace(saved, precision="fp32"), torch.device("cpu")) for saved in members]
    return predictors[0] if len(predictors) == 1 else Ensemble(predictors)


def _target(out: str | os.PathLike[str], form: str | None) -> tuple[Path, Literal["pt2", "onnx"]]:
    """The file to write, and its format. Raises `UserError` if they contradict each other."""
    path = to_local_path(out, "file").resolve()
    formats = get_args(exporting.Format)
    ending = path.suffix.removeprefix(".").lower()
    if form is not None and form not in formats:
        raise UserError(f"unknown format {form!r}; known: {', '.join(formats)}")
    if form is None and ending not in formats:
        raise UserError(
            f"{path.name} does not say which format to write: end it with .pt2 or .onnx, or give the format"
        )
    if form is not None and ending in formats and ending != form:
        raise UserError(f"{path.name} ends with .{ending}, and the format is {form}: change one of them")
    if ending not in formats:
        path = path.with_name(f"{path.name}.{form}")
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; give the file to write, such as {path / ('model.' + str(form or ending))}"
        )
    return path, "onnx" if (form or ending) == "onnx" else "pt2"


def _store_of(run: Run) -> stores.Store | None:
    """The store of the training, or None if it is not there, or not the same any more."""
    described = run.info["store"]
    try:
        store = stores.open(described["path"], cache=run.config.data.cache)
    except (UserError, OSError):
        return None
    return store if store.fingerprint == described["fingerprint"] else None


def _largest(members: Sequence[serialization.SavedModel]) -> tuple[int, int]:
    """The smallest size that every member can be given."""
    heights, widths = zip(*(member.model.spec.image_size for member in members), strict=True)
    return max(heights), max(widths)


def _images(
    run: Run, store: stores.Store | None, size: tuple[int, int], dtype: torch.dtype
) -> tuple[npt.NDArray[Any], str]:
    """Images [N, *size] of `dtype` to compare on, and what they are."""
    if store is not None:
        plan = run.plan.drop_duplicates("row")
        rows = plan.loc[plan["part"] != "test", "row"].to_numpy(np.int64)
        chosen = np.sort(np.random.default_rng(run.config.seed).permutation(rows)[:CHECKED_IMAGES])
        grays = torch.from_numpy(store.images(chosen)).float()
        source = f"{len(chosen)} images of the run's store"
    else:
        grays = torch.rand((CHECKED_IMAGES, 12, 12), generator=torch.Generator().manual_seed(run.config.seed)) * 255
        source = f"{CHECKED_IMAGES} synthetic images"
    if grays.shape[1:] != size:
        grays = F.interpolate(grays[:, None], size=size, mode="bilinear", antialias=True)[:, 0].clamp(0, 255)
        source += f", resized to {size[0]} x {size[1]}" if store is not None else ""
    return (grays if dtype == torch.float32 else grays.round().to(torch.uint8)).numpy(), source


def _metadata(
    run: Run, members: Sequence[serialization.SavedModel], size: tuple[int, int], store: stores.Store | None
) -> dict[str, Any]:
    """What a file says about itself, as JSON."""
    points = run.path / "thresholds.json"
    operating = json.loads(points.read_text(encoding="utf-8")) if points.exists() else {"labels": {}}
    deep = store is not None and store.depth == 16
    form = None if store is None else store.manifest.image_format
    return {
        "format": "cxr_ray export 1",
        "run": run.path.name,
        "task": members[0].task,
        "labels": list(members[0].labels),
        "thresholds": {label: point["threshold"] for label, point in operating["labels"].items()},
        "input": {"dtype": "float32" if deep else "uint8", "shape": ["N", *size], "black": 0, "white": 255},
        "output": {"dtype": "float32", "shape": ["N", len(members[0].labels)], "meaning": "probability of each label"},
        "preprocessing": [
            {
                "image_size": list(m.model.spec.image_size),
                "mean": m.model.spec.mean,
                "deviation": m.model.spec.deviation,
            }
            for m in members
        ],
        "decoding": None
        if form is None
        else {"size": list(form.size), "aspect": form.aspect, "depth": form.depth, "exact_jpeg": form.exact_jpeg},
        "weights_sha256": weights.digests_of(run),
        "versions": {name: metadata.version(name) for name in ("cxr_ray", "torch")},
        "use": RESEARCH_USE,
    }
