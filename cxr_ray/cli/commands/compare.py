"""`cxr-ray compare`: prints and writes the differences between runs. Computing them is in evaluation.compare."""

from pathlib import Path
from typing import Any, Literal

from cyclopts import App

from cxr_ray.cli import next_steps
from cxr_ray.cli.parameters import Words
from cxr_ray.cli.terminal import bullets, table
from cxr_ray.cli.thresholds import check_thresholds, read_thresholds
from cxr_ray.errors import UserError

app = App(name="compare", help_format="markdown")


@app.default
def compare(
    *runs: Path,
    split: Literal["train", "val", "test"] | None = None,
    thresholds: Words = None,
    out: Path | None = None,
    plugins: Words = None,
) -> None:
    """Compare runs on the rows they share: differences with confidence intervals, on one page.

    Lists the differences of config and data, then those of the metrics, label by label, on the rows that all runs predicted. For
    runs that differ only in their seed it also shows the mean and standard deviation over seeds.

    Parameters
    ----------
    runs
        Two or more run folders; differences are to the first one.
    split
        Part to compare on. Default: test if every run has predictions on it, else val.
    thresholds
        One number, LABEL=NUMBER ..., or a rule: youden, f1, recall=0.9, specificity=0.9. Default: each run's own.
    out
        HTML file to write, with a JSON file of the same name next to it. Default: compare-RUN-RUN.html next to the first run.
    plugins
        Modules to import first. Comparing runs needs none.
    """
    if len(runs) < 2:
        raise UserError("give two or more runs: cxr-ray compare RUN RUN ...")
    from cxr_ray import runs as saved_runs
    from cxr_ray.workflows import evaluations

    opened = [saved_runs.load(run) for run in runs]
    rule = read_thresholds(thresholds)
    check_thresholds(rule, opened[0])
    names = "-".join(run.path.name for run in opened)[:100]
    page = out or opened[0].path.parent / f"compare-{names}.html"
    found = evaluations.compare(opened, split=split, thresholds=rule, out=page, plugins=plugins or ())
    print_comparison(found.results)
    print(f"comparison: {found.report}")
    next_steps.show("open the comparison in a browser; it is one file and needs no network")


def print_comparison(found: dict[str, Any]) -> None:
    """Print the differences of config and metrics."""
    from cxr_ray.metrics.titles import p_text

    for other in found["config"]:
        bullets(f"{found['runs'][0]['name']} -> {other['run']}", other["differs"])
    for line in found["notes"]:
        print(f"note: {line}")
    interval = found["interval"]
    how = (
        f"{interval['by']}s resampled {interval['resamples']:,} times" if interval["resamples"] else "without intervals"
    )
    print(f"on {found['rows']:,} rows of {found['part']}, {how}")
    for pair in found["pairs"]:
        rows = [
            [r["label"], r["metric"], r["value"], f"{r['low']:.3f} to {r['high']:.3f}" if r.get("low") != r.get("high") else "",
             p_text(r), r.get("delong_p")]
            for r in sorted(pair["rows"], key=lambda r: (r["label"] == "mean",))
            if r["metric"] in found["shown"]
        ]  # fmt: skip
        table(
            ["label", "metric", "difference", "95% interval", "p", "p (DeLong)"],
            rows,
            title=f"{pair['second']} minus {pair['first']}",
        )
    if found["seeds"]:
        rows = [
            [r["label"], r["metric"], r["mean"], "{:.3f} to {:.3f}".format(*r["between"]) if "between" in r else "",
             r["deviation"], r["low"], r["high"]]
            for r in found["seeds"]
        ]  # fmt: skip
        columns = ["label", "metric", "mean", "95% interval", "standard deviation", "min", "max"]
        table(columns, rows, title="over seeds")
