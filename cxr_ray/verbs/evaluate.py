"""`cxr-ray evaluate`: a run's predictions judged label by label."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from cxr_ray.errors import UserError
from cxr_ray.verbs.show import table

app = App(name="evaluate", help_format="markdown")

THRESHOLDS = "thresholds are one number, or LABEL=NUMBER for each label, such as --thresholds Edema=0.2"


@app.default
def evaluate(
    run: Path,
    /,
    *,
    split: Literal["train", "val", "test"] | None = None,
    thresholds: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
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
        Operating points: one number, or LABEL=NUMBER ...; changing them needs no training.
    """
    show(run, split=split, thresholds=read_thresholds(thresholds))


def read_thresholds(words: Sequence[str] | None) -> float | dict[str, float] | None:
    """`["0.3"]` to 0.3, `["Edema=0.2", "Mass=0.4"]` to a mapping. Raises `UserError`."""
    if not words:
        return None
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


def show(run: Path, *, split: str | None = None, thresholds: float | dict[str, float] | None = None) -> Any:
    """Judge, print the table and where the report is, and return the evaluation."""
    from cxr_ray import runs

    runs.load(run)  # a wrong path is told before torch is imported, which takes seconds
    from cxr_ray import evaluate as judging

    judged = judging.evaluate(run, split=split, thresholds=thresholds)
    head, *rows = judged.table
    table(head, rows, title=f"{judged.part} of {Path(judged.run.path).name}")
    print(f"report: {Path(judged.report).resolve()}")
    print("next: open the report in a browser; it is one file and needs no network")
    return judged
