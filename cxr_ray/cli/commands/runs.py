"""`cxr-ray runs`: lists the runs in a folder. Finding them is in runs."""

from pathlib import Path

from cyclopts import App

from cxr_ray.cli import next_steps
from cxr_ray.cli.terminal import table
from cxr_ray.errors import UserError

app = App(name="runs", help_format="markdown")


@app.default
def runs(folder: Path = Path("runs"), /) -> None:
    """List the runs in a folder.

    One line per run, the newest last: model, data, epochs, and the metrics of the saved model on the part that was evaluated.

    Parameters
    ----------
    folder
        Folder that contains the runs.
    """
    from cxr_ray import runs as saved_runs
    from cxr_ray.metrics import MAIN_METRICS

    found = saved_runs.list_runs(folder)
    if not found:
        raise UserError(f"no runs in {folder.resolve()}; `cxr-ray train --output FOLDER` writes runs to FOLDER")
    rows = []
    for run in found:
        info = run.info
        part, value = run.headline()
        best = info.get("best") or {}
        last = best and not saved_runs.is_selected_on_val(info, run.config.train)
        rows.append(
            [
                run.path.name, info["status"], run.architecture, info["store"]["source"], len(info["labels"]), info.get("epochs", ""),
                "last" if last else best.get("metric", ""), "" if last else best.get("value", ""), part,
                *(value.get(k, "") for k in MAIN_METRICS), info.get("test_looks", 0),
            ]
        )  # fmt: skip
    columns = ["run", "status", "model", "data", "labels", "epochs", "selected by", "value", "part"]
    less_important = ["selected by", "value", "test evaluations", "labels", "data", "epochs"]
    table([*columns, *MAIN_METRICS, "test evaluations"], rows, first_out=less_important)
    print(f"runs: {folder.resolve()}")
    next_steps.show(f"{next_steps.of_runs(found)}")
