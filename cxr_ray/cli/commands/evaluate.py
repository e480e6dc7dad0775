"""`cxr-ray evaluate`: a run's predictions judged label by label."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, validators

from cxr_ray.cli.terminal import table
from cxr_ray.errors import UserError

app = App(name="evaluate", help_format="markdown")

THRESHOLDS = (
    "thresholds are one number, LABEL=NUMBER for each label, such as --thresholds Edema=0.2, "
    "or a rule: youden, f1, recall=0.9, specificity=0.9"
)


@app.default
def evaluate(
    run: Path,
    /,
    *,
    split: Literal["train", "val", "test"] | None = None,
    thresholds: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    by: Literal["image", "study"] = "image",
    combine: Literal["max", "mean"] = "max",
    data: str | None = None,
    mapping: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    bootstrap: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    interval: Literal["percentile", "bca"] | None = None,
    interval_by: Literal["patient", "image"] | None = None,
) -> None:
    """Judge a run on its test part, label by label, and write its report.

    Where the run has no test part, val is judged and called what it is: the part that chose the epoch.

    Parameters
    ----------
    run
        Run folder that train wrote.
    split
        Part to judge; without it, test where there is one, else val.
    thresholds
        Operating points: one number, LABEL=NUMBER ..., or a rule that chooses them on val: youden, f1, recall=0.9,
        specificity=0.9; changing them needs neither training nor predicting.
    by
        Judge each image for itself, or the images of a study together.
    combine
        How the probabilities of a study's images become one.
    data
        Another store, a folder or a URL, to judge the run on (external validation); rows that the run has seen are left out, and said.
    mapping
        MODEL=DATA: which label of --data a label of the model is judged by, where their names differ.
    bootstrap
        Resamples for the intervals; 0 turns them off. This and the next two are the run's own where they are left out.
    interval
        How an interval is read off the resamples: percentile, or bias-corrected and accelerated.
    interval_by
        What is resampled: patients whole, or images as if each stood for itself.
    """
    pairs = read_mapping(mapping)
    if data is None and pairs:
        raise UserError("--mapping says which label of --data is which; give --data SHARDS as well")
    if data is not None and split is not None:
        raise UserError("--data is judged whole; leave --split out")
    settings = {"bootstrap": bootstrap, "interval": interval, "interval_by": interval_by}
    report = {name: value for name, value in settings.items() if value is not None}
    chosen = read_thresholds(thresholds)
    compute_metrics(
        run, split=split, thresholds=chosen, by=by, combine=combine, data=data, mapping=pairs, report=report
    )


def read_mapping(words: Sequence[str] | None) -> dict[str, str]:
    """`["Edema=Pulmonary edema"]` to a mapping of the model's labels to the data's. Raises `UserError`."""
    pairs = [word.partition("=") for word in words or ()]
    for label, _, other in pairs:
        if not label or not other:
            raise UserError(
                f"cannot read --mapping {label or other}; say MODEL=DATA, such as --mapping 'Edema=Pulmonary edema'"
            )
    return {label: other for label, _, other in pairs}


def read_thresholds(words: Sequence[str] | None) -> float | str | dict[str, float] | None:
    """`["0.3"]` to 0.3, `["Edema=0.2", "Mass=0.4"]` to a mapping, `["youden"]` to itself. Raises `UserError`."""
    if not words:
        return None
    if len(words) == 1 and words[0] in ("youden", "f1"):
        return words[0]
    try:
        if len(words) == 1 and "=" not in words[0]:
            values: float | dict[str, float] = float(words[0])
        else:
            values = {name: float(value) for name, _, value in (word.rpartition("=") for word in words)}
    except ValueError:
        raise UserError(f"cannot read --thresholds {' '.join(words)}; {THRESHOLDS}") from None
    each = values if isinstance(values, dict) else {"all": values}
    if "" in each or not all(0.0 <= value <= 1.0 for value in each.values()):
        raise UserError(f"--thresholds {' '.join(words)}: {THRESHOLDS}, each from 0 to 1")
    return values


def compute_metrics(
    run: Path,
    *,
    split: str | None = None,
    thresholds: float | str | dict[str, float] | None = None,
    by: Literal["image", "study"] = "image",
    combine: Literal["max", "mean"] = "max",
    data: str | None = None,
    mapping: dict[str, str] | None = None,
    report: dict[str, Any] | None = None,
) -> Any:
    """Judge, print the table and where the report is, and return the evaluation."""
    from cxr_ray import runs

    runs.load(run)  # a wrong path is told before torch is imported, which takes seconds
    from cxr_ray.workflows import evaluate as evaluating

    if data is None:
        judged = evaluating.evaluate(run, split=split, thresholds=thresholds, by=by, combine=combine, report=report)
    else:
        from cxr_ray.workflows import external

        judged = external.evaluate(
            run, data, mapping=mapping, thresholds=thresholds, by=by, combine=combine, report=report
        )
    head, *rows = judged.table
    of = f"{judged.part} of {Path(judged.run.path).name}" + (f", by {judged.found['by']}" if by == "study" else "")
    table(head, rows, title=of)
    print_operating(judged.found)
    print(f"report: {Path(judged.report).resolve()}")
    print(f"next: open the report in a browser, or: cxr-ray show {shlex.quote(str(run))} --thresholds recall=0.9")
    return judged


def print_operating(found: dict[str, Any]) -> None:
    """What a rule chose, and what it costs; where recalls of 0.8, 0.9 and 0.95 lie."""
    told = found["operating"]
    if told["chosen_on_rows"]:
        rows = [
            [
                label,
                p["threshold"],
                p.get("recall"),
                told["here"][label].get("recall"),
                p.get("margin_precision"),
                p["chosen"],
            ]
            for label, p in told["points"].items()
        ]
        columns = ["label", "threshold", "recall on val", f"on {found['part']}", "margin costs in precision", "chosen"]
        table(columns, rows, title=f"thresholds: {told['rule']}, chosen on val")
    if found["at_recall"]:
        rows = [
            [f"{r['recall']:g}", r["label"], r["val"]["threshold"], r["here"].get("recall"), r["here"].get("precision"),
             r["here"].get("alarms_per_100"), "" if r["val"]["met"] else r["val"]["chosen"].partition("; ")[2] or r["val"]["chosen"]]
            for r in found["at_recall"]
        ]  # fmt: skip
        columns = ["recall wanted", "label", "threshold from val", "recall", "precision", "alarms per 100", "but"]
        table(columns, rows, title=f"at a recall of at least ..., on {found['part']}")
