"""The index of a run's reports: one line for each evaluation in its folder. The results themselves are on the reports."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxr_ray.report.headline import headline_cells
from cxr_ray.report.render import jinja
from cxr_ray.runs import Run, evaluation_files
from cxr_ray.storage.atomic import write_atomic

PARTS = {"test": "Test part", "val": "Val part", "train": "Train part"}


def write(run: Run) -> Path:
    """Write `index.html` into the run's folder: every evaluation with its date, rows, thresholds and headline metrics."""
    rows = [_row(run, files, results) for files, results in evaluation_files.every(run)]
    path = run.path / evaluation_files.INDEX
    page = (
        jinja()
        .get_template("index.html")
        .render(
            name=run.path.name,
            architecture=run.architecture,
            source=run.info["store"]["source"],
            rows=rows,
            names=[cell["name"] for cell in rows[0]["cells"]] if rows else [],
        )
    )
    write_atomic(path, page)
    return path


def title(results: dict[str, Any]) -> str:
    """What an evaluation is of, such as `Val part, epoch 3, by study`."""
    external = results.get("external")
    what = f"External data: {external['store']}" if external else PARTS.get(results["part"], results["part"])
    epoch, by = results.get("epoch"), str(results.get("by", "image"))
    of_epoch = "" if epoch is None else ", the untrained model" if epoch == 0 else f", model of epoch {epoch}"
    return what + of_epoch + (", by study" if by.startswith("study") else "")


def _row(run: Run, files: evaluation_files.EvaluationFiles, results: dict[str, Any]) -> dict[str, Any]:
    unit = "studies" if str(results.get("by", "image")).startswith("study") else "images"
    return {
        "title": title(results),
        "link": files.page.relative_to(run.path).as_posix() if files.page.exists() else None,
        "date": results.get("evaluated")
        or f"{datetime.fromtimestamp(files.results.stat().st_mtime, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "rows": results["rows"],
        "unit": unit,
        "patients": results.get("patients"),
        "rule": results["operating"]["rule"],
        "cells": headline_cells(results),
    }
