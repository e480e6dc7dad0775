"""Where a run's evaluations are: the results, page and predictions of each have names of their own, so that none replaces another.

A repetition, such as one with other thresholds, replaces its own files. The names are specified in docs/reference/formats.md.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_ray.labels import PARTS
from cxr_ray.runs.run import Run

INDEX = "index.html"
BY_STUDY = "-by-study"


@dataclass(frozen=True)
class EvaluationFiles:
    """The files of one evaluation."""

    results: Path
    """All results as JSON."""
    page: Path
    """The report."""


def epoch_suffix(epoch: int | None) -> str:
    """What names of files say about the epoch: nothing for the selected one."""
    return "" if epoch is None else f"-epoch-{epoch:04d}"


def of_part(run: Run, part: str, *, by: str = "image", epoch: int | None = None) -> EvaluationFiles:
    """The files of the evaluation of a part of the run's own data. `report.html` is the one of test."""
    suffix = epoch_suffix(epoch) + (BY_STUDY if by == "study" else "")
    page = f"report{'' if part == 'test' else f'-{part}'}{suffix}.html"
    return EvaluationFiles(run.path / f"evaluation-{part}{suffix}.json", run.path / page)


def of_external(
    run: Run, store: str, fingerprint: str, *, by: str = "image", epoch: int | None = None
) -> EvaluationFiles:
    """The files of the evaluation on another store, in a folder called as the store; with the start of its fingerprint if another
    evaluation has that folder, since stores may have equal names."""
    name, suffix = safe_name(store), epoch_suffix(epoch) + (BY_STUDY if by == "study" else "")
    folder = run.path / "external" / f"{name}{suffix}"
    if (found := _read(folder / "evaluation.json")) is not None and not _is_of(found, fingerprint, by, epoch):
        folder = run.path / "external" / f"{name}-{fingerprint[:12]}{suffix}"
    return EvaluationFiles(folder / "evaluation.json", folder / "report.html")


def safe_name(store: str) -> str:
    """The name of a store as a part of file names."""
    return re.sub(r"[^\w.+-]+", "_", store)


def every(run: Run) -> Iterator[tuple[EvaluationFiles, dict[str, Any]]]:
    """All evaluations in the run's folder with their results: those of test first, then val, train and external data."""
    for part in reversed(PARTS):
        for file in sorted(run.path.glob(f"evaluation-{part}*.json"), key=lambda file: file.stem):
            if (results := _read(file)) is not None:
                page = file.name.removeprefix(f"evaluation-{part}").removesuffix(".json")
                yield (
                    EvaluationFiles(file, run.path / f"report{'' if part == 'test' else f'-{part}'}{page}.html"),
                    results,
                )
    for file in sorted((run.path / "external").glob("*/evaluation.json")):
        if (results := _read(file)) is not None:
            yield EvaluationFiles(file, file.with_name("report.html")), results


def _is_of(results: dict[str, Any], fingerprint: str, by: str, epoch: int | None) -> bool:
    same_unit = str(results.get("by", "image")).startswith("study") == (by == "study")
    external = results.get("external") or {}
    return bool(external.get("fingerprint", fingerprint) == fingerprint and same_unit and results.get("epoch") == epoch)


def _read(file: Path) -> dict[str, Any] | None:
    """The results in a file; None if there are none, or if it is not a file of results."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "values" in found else None
