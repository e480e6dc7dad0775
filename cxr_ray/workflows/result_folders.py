"""Folders of explanations and audits: where they are by default, and what they were made with, so that none replaces others unasked."""

import json
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from cxr_ray import runs
from cxr_ray.data.store_format import digest_of
from cxr_ray.errors import UserError
from cxr_ray.inference.predictor import Predictor

SETTINGS = "settings.json"


def default_folder(run_or_model: Any, predictor: Predictor, name: str) -> Path:
    """`explanations/NAME` in the folder of the run, or next to the file of weights."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).lstrip(".")
    if predictor.run is not None:
        return predictor.run.path / "explanations" / name
    if isinstance(run_or_model, str | os.PathLike) and not isinstance(run_or_model, runs.Run):
        return Path(run_or_model).absolute().parent / f"{Path(run_or_model).stem}-explanations" / name
    raise UserError("give a folder to write to")


def described(images: Any, **settings: Any) -> dict[str, Any]:
    """What results are made with, as plain JSON. Of `images` only a digest of their path is kept, which may name a patient."""
    where = digest_of({"path": os.path.abspath(images)}) if isinstance(images, str | os.PathLike) else None  # noqa: PTH100
    found: dict[str, Any] = json.loads(json.dumps({**settings, "images": where}, default=list))
    return found


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note in `folder` what its results were made with."""
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def free_folder(folder: Path, settings: Mapping[str, Any]) -> Path:
    """`folder`, or the first of FOLDER-2, FOLDER-3, ... that has no results of other settings. Equal ones are made again in place."""
    for number in count(1):
        found = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not found.exists() or _read(found) == settings or (found.is_dir() and not any(found.iterdir())):
            return found
    raise AssertionError("unreachable")


def _read(folder: Path) -> Any:
    """What the results in `folder` were made with; None if that is not known."""
    try:
        return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
