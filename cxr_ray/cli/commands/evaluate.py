"""`cxr-ray evaluate`: evaluates a run and prints its metrics. Computing them is in workflows.evaluate and workflows.external."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter, validators

from cxr_ray.cli import next_steps
from cxr_ray.cli.metric_tables import LESS_IMPORTANT, metric_table, overall_line, print_operating
from cxr_ray.cli.parameters import Words
from cxr_ray.cli.terminal import table
from cxr_ray.cli.thresholds import check_thresholds, read_thresholds
from cxr_ray.errors import UserError

if TYPE_CHECKING:
    from cxr_ray.workflows.results import Evaluation

app = App(name="evaluate", help_format="markdown")


@app.default
def evaluate(
    run: Path,
    /,
    *,
    split: Literal["train", "val", "test"] | None = None,
    epoch: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    thresholds: Words = None,
    by: Literal["image", "study"] = "image",
    combine: Literal["max", "mean"] = "max",
    data: str | None = None,
    mapping: Words = None,
    bootstrap: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    interval: Literal["percentile", "bca"] | None = None,
    interval_by: Literal["patient", "image"] | None = None,
    intervals: Annotated[bool, Parameter(negative="")] = False,
    plugins: Words = None,
) -> None:
    """Evaluate a run on its test part, label by label, and write its report.

    Without a test part, val is evaluated; the report then states that the epoch was selected on the same part.

    Parameters
    ----------
    run
        Folder of the run.
    split
        Part to evaluate. Default: test if it has rows, else val.
    epoch
        Evaluate the model of another epoch than the selected one: one whose checkpoint is kept, or 0, the untrained model. Its report
        has a name of its own; that of the selected model then shows the untrained one among its baselines.
    thresholds
        Operating points: one number, LABEL=NUMBER ..., or a rule that selects them on val: youden, f1, recall=0.9,
        specificity=0.9. Saved predictions are reused: changing thresholds needs no new training or prediction.
    by
        Evaluate each image, or the images of each study together.
    combine
        How to combine the probabilities of a study's images.
    data
        Folder or URL of another store to evaluate on (external validation). Rows that the run has seen are excluded and reported.
    mapping
        MODEL=DATA: the label of --data that corresponds to a label of the model, if their names differ.
    bootstrap
        Bootstrap resamples for confidence intervals; 0 disables them. Default of this and the next two: as in the run's config.
    interval
        Kind of bootstrap interval: percentile, or bias-corrected and accelerated (bca).
    interval_by
        Unit of the bootstrap: resample patients, or images as if they were independent.
    intervals
        Print the confidence interval of each value below it. The report always has them.
    plugins
        Modules that register the run's model or loss. A run that was trained with plugins needs them named here.
    """
    pairs = read_mapping(mapping)
    if data is None and pairs:
        raise UserError("--mapping maps labels to those of --data; give --data SHARDS as well")
    if data is not None and split is not None:
        raise UserError("--data evaluates all rows of the other store; remove --split")
    settings = {"bootstrap": bootstrap, "interval": interval, "interval_by": interval_by}
    rule = read_thresholds(thresholds)
    from cxr_ray import runs

    loaded = runs.load(run)  # reports a wrong path or rule before torch is imported, which takes seconds
    check_thresholds(rule, loaded)
    from cxr_ray.workflows import evaluations

    evaluation = evaluations.evaluate(
        loaded,
        split=split,
        epoch=epoch,
        thresholds=rule,
        by=by,
        combine=combine,
        data=data,
        mapping=pairs,
        report={name: value for name, value in settings.items() if value is not None},
        plugins=plugins or (),
    )
    print_evaluation(evaluation, intervals=intervals)


def read_mapping(words: Sequence[str] | None) -> dict[str, str]:
    """`["Edema=Pulmonary edema"]` as a mapping from the model's labels to the data's. Raises `UserError`."""
    pairs = [word.partition("=") for word in words or ()]
    for label, _, other in pairs:
        if not label or not other:
            raise UserError(
                f"cannot read --mapping {label or other}; write MODEL=DATA, such as --mapping 'Edema=Pulmonary edema'"
            )
    return {label: other for label, _, other in pairs}


def print_evaluation(evaluation: "Evaluation", *, intervals: bool = False) -> None:
    """Print the metrics, the operating points and the report's path; with `intervals` that of each value below it."""
    run, results = evaluation.run, evaluation.results
    head, *rows = metric_table(results["values"], results["labels"], intervals=intervals)
    title = f"{evaluation.part} of {run.path.name}"
    title += f", epoch {results['epoch']}" if "epoch" in results else ""
    title += f", by {results['by']}" if results["by"] != "image" else ""
    table(head, rows, title=title, first_out=LESS_IMPORTANT)
    if overall := overall_line(results["values"], results["task"]):
        print(overall)
    print_operating(results, intervals=intervals)
    print(f"report: {Path(evaluation.report).resolve()}")
    print(f"all reports: {evaluation.index}")
    next_steps.show(f"open the report in a browser, or: {next_steps.after_evaluation(run, results)}")
