"""`cxr-ray errors`: lists the worst wrong decisions of a run. Finding them is in evaluation.worst_errors."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, validators

from cxr_ray.cli import next_steps
from cxr_ray.cli.parameters import Words
from cxr_ray.cli.terminal import table
from cxr_ray.cli.thresholds import check_thresholds, read_thresholds
from cxr_ray.errors import UserError

app = App(name="errors", help_format="markdown")


@app.default
def errors(
    run: Path,
    /,
    *,
    label: Words = None,
    top: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 20,
    split: Literal["train", "val", "test"] | None = None,
    thresholds: Words = None,
    plugins: Words = None,
) -> None:
    """List the worst wrong decisions of a run: row, truth, decision, probability, loss and file.

    Everything is read from saved predictions. File names are shown here only and are in no report. Other thresholds on test count as a
    further test-set evaluation.

    Parameters
    ----------
    run
        Folder of the run.
    label
        Labels, or a group such as competition5. Default: all.
    top
        Number of errors to list.
    split
        Part to read. Default: test if it was predicted, else val.
    thresholds
        One number, LABEL=NUMBER per label, or a rule that is applied on val: youden, f1, recall=0.9, specificity=0.9. Default: the run's own.
    plugins
        Modules to import first. Listing errors needs none.
    """
    from cxr_ray import registry, runs
    from cxr_ray.evaluation.worst_errors import errors_of

    registry.load_plugins(plugins or ())
    saved = runs.load(run)
    rule = read_thresholds(thresholds)
    check_thresholds(rule, saved)
    part, found = errors_of(saved, split, labels=label, thresholds=rule)
    shown = found.head(top)
    files = _files(saved, shown["row"].tolist())
    with_threshold = saved.info["task"] != "multiclass"
    with_label = with_threshold or label is not None  # of classes: else the line is about the row's own class
    rows = [
        [
            str(error["row"]),
            *([error["label"]] if with_label else []),
            error["truth"],
            error["decision"],
            error["probability"],
            *([error["threshold"]] if with_threshold else []),
            error["loss"],
            *([files[error["row"]]] if files else []),
        ]
        for error in shown.to_dict("records")
    ]
    of_label = ["label"] if with_label else []
    columns = ["row", *of_label, "truth", "decision", "probability", *(["threshold"] if with_threshold else []), "loss"]
    title = f"{len(shown):,} of {len(found):,} wrong decisions on {part} of {saved.path.name}, largest loss first"
    table([*columns, *(["file"] if files else [])], rows, title=title, first_out=["threshold", "decision"])
    print(
        f"probability: of {'the label' if with_label else 'the true class'}; loss: minus the logarithm of what the truth got"
    )
    if part == "test" and rule is not None:
        print(f"test-set evaluations so far: {saved.count_test_evaluation()}")
    if files:  # the store is there
        store = shlex.quote(str(saved.info["store"]["path"]))
        save = shlex.quote(next_steps.written("row.png", near=saved.path))
        next_steps.show(f"cxr-ray describe {store} --row {shown['row'].iloc[0]} --save {save}")


def _files(run: Any, rows: list[int]) -> dict[int, str]:
    """The file of each row as the store's records name it; empty, with a line that says so, if the store cannot be opened."""
    from cxr_ray.data import store as stores

    try:
        store = stores.open(run.info["store"]["path"], verify="none", cache=run.config.data.cache)
    except UserError as error:
        print(f"files are not shown: {error}")
        return {}
    images = store.index.set_index("row")["image"]
    return {row: str(images[row]) for row in rows}
