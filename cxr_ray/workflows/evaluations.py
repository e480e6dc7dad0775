"""Evaluate and compare runs, from Python and for the commands. Computing is in evaluate.py, external.py and evaluation/compare.py."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cxr_ray import registry
from cxr_ray.errors import UserError
from cxr_ray.metrics import operating_points, studies
from cxr_ray.runs import Run, load
from cxr_ray.runtime import progress
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.storage.remote import to_local_path
from cxr_ray.workflows.evaluation_request import By, EvaluationRequest
from cxr_ray.workflows.results import Comparison, Evaluation

AnyRun = Run | str | os.PathLike[str]


def evaluate(  # noqa: PLR0913 - the options of the command, all of them by keyword
    run: AnyRun,
    *,
    split: str | None = None,
    epoch: int | None = None,
    thresholds: operating_points.Rule | None = None,
    by: By = "image",
    combine: studies.Method = "max",
    data: str | os.PathLike[str] | None = None,
    mapping: Mapping[str, str] | None = None,
    report: Mapping[str, Any] | None = None,
    plugins: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> Evaluation:
    """Evaluate a run label by label on a part of its store, or on other data, and write its report.

    `split`: train, val or test; by default test if it has rows, else val. `epoch`: of another model than the selected one: an epoch
    whose checkpoint is kept, or 0, the untrained model. `thresholds`: one number, a mapping from labels to numbers,
    or a rule that is applied on val: "youden", "f1", {"recall": 0.9}, {"specificity": 0.9}; by default the run's own. `by`: each
    image, or each study, whose images `combine` combines (max or mean). `data`: folder or URL of another store, evaluated instead
    (external validation), with `mapping` from labels of the model to labels of the data. `report`: settings of `config.Report`, such
    as {"bootstrap": 0}. Each evaluation of test is counted in the run. `plugins` are modules that register models or losses; those
    that the run was trained with must be named. Raises `UserError` if the run has no model or the part no rows."""
    opened = load(run)  # reports a wrong path before torch is imported, which takes seconds
    opened.load_plugins(plugins)
    request = EvaluationRequest(
        split=split,
        epoch=epoch,
        thresholds=thresholds,
        by=by,
        combine=combine,
        data=data,
        mapping=mapping or {},
        report=report or {},
    )
    if data is None:
        from cxr_ray.workflows import evaluate as on_own_store

        return on_own_store.evaluate(opened.path, request, log=log)
    from cxr_ray.workflows import external

    return external.evaluate(opened.path, request, log=log)


def compare(
    runs: Sequence[AnyRun],
    *,
    split: Literal["train", "val", "test"] | None = None,
    thresholds: operating_points.Rule | None = None,
    out: str | os.PathLike[str] | None = None,
    plugins: Sequence[str] = (),
) -> Comparison:
    """Compare two runs or more on the rows that all of them predicted: metrics, and differences with paired intervals.

    `split`: by default test if every run has predictions of it, else val. `thresholds` as for `evaluate`. `out`: HTML file to write, with
    a JSON file of the same name next to it; nothing is written without it. Raises `UserError` if the runs have nothing in common."""
    from cxr_ray.evaluation import compare as comparisons
    from cxr_ray.report import comparison_page

    registry.load_plugins(plugins)
    if not isinstance(runs, Sequence) or isinstance(runs, str):
        raise UserError("give two runs or more in a list: compare([first, second])")
    opened = [load(run) for run in runs]
    with progress.shown():
        results = comparisons.compare(opened, split=split, thresholds=thresholds)
    if out is None:
        return Comparison(results)
    page = to_local_path(out, "page").resolve()
    write_atomic(page.with_suffix(".json"), json.dumps(results, indent=1))
    comparison_page.write(results, page)
    return Comparison(results, page)
