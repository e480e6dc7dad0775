"""`cxr-ray runs`: the runs in a folder, a line each."""

import shlex
from pathlib import Path

from cyclopts import App

from cxr_ray.cli.terminal import table
from cxr_ray.errors import UserError

app = App(name="runs", help_format="markdown")


@app.default
def runs(folder: Path = Path("runs"), /) -> None:
    """The runs in a folder, a line each.

    The newest stands last: what was trained, how far, and what the kept model reaches where it was judged.

    Parameters
    ----------
    folder
        Folder that runs are made in.
    """
    from cxr_ray import runs as held
    from cxr_ray.metrics import MAIN_METRICS

    found = held.list_runs(folder)
    if not found:
        raise UserError(f"no runs in {folder.resolve()}; `cxr-ray train` makes them, --output says where")
    rows = []
    for run in found:
        info = run.info
        part, value = run.headline()
        best = info.get("best") or {}
        rows.append(
            [
                run.path.name, info["status"], run.architecture, info["store"]["source"], len(info["labels"]), info.get("epochs", ""),
                best.get("metric", ""), best.get("value") if best.get("value") is not None else "", part,
                *(value.get(k, "") for k in MAIN_METRICS), info.get("test_looks", 0),
            ]
        )  # fmt: skip
    columns = ["run", "status", "model", "data", "labels", "epochs", "chosen by", "its value", "judged on"]
    table([*columns, *MAIN_METRICS, "looks at test"], rows)
    print(f"runs: {folder.resolve()}")
    two = " ".join(shlex.quote(str(run.path)) for run in found[-2:])
    print(f"next: cxr-ray {'compare' if len(found) > 1 else 'show'} {two}")
