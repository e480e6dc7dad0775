"""`cxr-ray compare`: runs beside each other on the rows they share."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from cxr_ray.cli.commands.evaluate import read_thresholds
from cxr_ray.cli.terminal import bullets, table
from cxr_ray.errors import UserError

app = App(name="compare", help_format="markdown")


@app.default
def compare(
    *runs: Path,
    split: Literal["train", "val", "test"] | None = None,
    thresholds: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    out: Path | None = None,
) -> None:
    """Runs beside each other on the rows they share: differences with intervals, one page.

    What differs in config and data, then label by label on the rows that all of them predicted. Runs that differ in their seed alone are also summed up: mean and deviation between seeds.

    Parameters
    ----------
    runs
        Run folders, two or more; differences are from the first named.
    split
        Part to compare on; without it, test where every run has predictions of it, else val.
    thresholds
        One number, LABEL=NUMBER ..., or a rule for every run: youden, f1, recall=0.9, specificity=0.9; else each its own.
    out
        The page; without it, compare-RUN-RUN.html beside the first run. Its numbers lie next to it as JSON.
    """
    if len(runs) < 2:
        raise UserError("give two runs or more: cxr-ray compare RUN RUN ...")
    from cxr_ray import runs as held
    from cxr_ray.evaluation import compare as comparing
    from cxr_ray.report import run_page
    from cxr_ray.storage.atomic import write_atomic

    opened = [held.load(run) for run in runs]
    found = comparing.compare(opened, split=split, thresholds=read_thresholds(thresholds))
    show(found)
    names = "-".join(run.path.name for run in opened)[:100]
    page = (out or opened[0].path.parent / f"compare-{names}.html").resolve()
    write_atomic(page.with_suffix(".json"), json.dumps(found, indent=1))
    run_page.write_comparison(found, page)
    print(f"comparison: {page}")
    print("next: open it in a browser; it is one file and needs no network")


def show(found: dict[str, Any]) -> None:
    """What differs, on a terminal."""
    for one in found["config"]:
        bullets(f"{found['runs'][0]['name']} -> {one['run']}", one["differs"])
    for line in found["notes"]:
        print(f"note: {line}")
    print(f"on {found['rows']:,} rows of {found['part']}, {found['interval']['by']}s resampled")
    for pair in found["pairs"]:
        rows = [
            [r["label"], r["metric"], r["value"], f"{r['low']:.3f} to {r['high']:.3f}" if "low" in r else "", r.get("p"), r.get("delong_p")]
            for r in sorted(pair["rows"], key=lambda r: (r["label"] == "mean",))
            if r["metric"] in found["shown"]
        ]  # fmt: skip
        table(
            ["label", "metric", "difference", "95% interval", "p", "p (DeLong)"],
            rows,
            title=f"{pair['second']} less {pair['first']}",
        )
    if found["seeds"]:
        rows = [
            [r["label"], r["metric"], r["mean"], "{:.3f} to {:.3f}".format(*r["between"]) if "between" in r else "",
             r["deviation"], r["low"], r["high"]]
            for r in found["seeds"]
        ]  # fmt: skip
        columns = ["label", "metric", "mean", "95% interval", "deviation between seeds", "least", "most"]
        table(columns, rows, title="seeds together")
