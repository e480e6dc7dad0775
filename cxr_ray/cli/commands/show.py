"""`cxr-ray show`: a run's parameters and metrics, drawn again at other labels, parts and thresholds."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from cxr_ray.cli.commands.evaluate import read_thresholds
from cxr_ray.cli.terminal import table

app = App(name="show", help_format="markdown")
Words = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]


@app.default
def show(
    run: Path,
    /,
    *,
    labels: Words = None,
    split: Literal["train", "val", "test", "both"] | None = None,
    thresholds: Words = None,
) -> None:
    """A run's parameters and metrics, drawn again at other labels, parts and thresholds.

    Everything comes from what the run kept: nothing is trained or predicted. Test drawn at other labels or thresholds is a
    further look at test, and counted.

    Parameters
    ----------
    run
        Run folder that train wrote.
    labels
        Labels, or a group of them such as competition5, to judge and to show; averages are over these alone.
    split
        Part to show; both: train and val; without it, every part whose predictions are kept.
    thresholds
        One number, LABEL=NUMBER ..., or a rule that val decides: youden, f1, recall=0.9, specificity=0.9.
    """
    from cxr_ray import runs
    from cxr_ray.evaluation import rescore

    held = runs.load(run)
    rule = read_thresholds(thresholds)
    chosen = rescore.chosen_labels(held, labels) if labels else None
    _parameters(held)
    kept = rescore.predicted_parts(held)
    parts = kept if split is None else ["train", "val"] if split == "both" else [split]
    if split == "both":  # train is predicted when it is asked for, not by every training
        for part in [p for p in parts if p not in kept]:
            print(
                f"{part}: no predictions of the kept model; cxr-ray evaluate {shlex.quote(str(run))} --split {part} makes them"
            )
        parts = [p for p in parts if p in kept]
    for part in parts:
        rescored = rescore.rescore(held, part, labels=chosen, thresholds=rule)
        _metrics(rescored, held.info["task"], held.path.name)
    if rescore.epoch_files(held) or (chosen is None and rule is None):
        _progress(rescore.progress(held, labels=chosen, thresholds=rule))
    else:
        print("epochs: their predictions were not kept (--report.keep_predictions true), so they are not judged anew")
    if "test" in parts and (rule is not None or chosen is not None):
        held.update(test_looks=int(held.info.get("test_looks", 0)) + 1)
        print(f"test has now been looked at {held.info['test_looks']} times")
    print(f"run: {held.path}")
    print(f"next: cxr-ray evaluate {shlex.quote(str(run))} writes its report")


def _parameters(run: Any) -> None:
    from cxr_ray import config as configs
    from cxr_ray.cli import flags

    given, default = run.config.model_dump(mode="json"), configs.Config().model_dump(mode="json")
    rows = []
    for name, _ in flags.settings(configs.Config):
        here, there = given, default
        for part in name.split("."):
            here, there = here[part], there[part]
        if here != there and name not in ("name", "output"):
            rows.append([name, flags.plain(here), flags.plain(there)])
    table(["parameter", "value", "default"], rows, title=f"{run.path.name}: what differs from the defaults")
    info = run.info
    if run.members:
        print(
            f"{run.architecture}: {', '.join(member.path.name for member in run.members)}; the parameters are the first's"
        )
    best = info.get("best") or {}
    said = f"{info['status']}, {info.get('epochs', 0)} epochs, {info['task']}, {len(info['labels'])} labels, store {info['store']['path']}"
    print(said + (f", best {best['metric']} {best['value']:.3f} at epoch {best['epoch']}" if best.get("value") else ""))


def _metrics(rescored: Any, task: str, name: str) -> None:
    from cxr_ray.workflows.evaluate import metric_table

    head, *rows = metric_table([v._asdict() for v in rescored.values], rescored.labels, task)
    if task != "multiclass":
        head.insert(1, "threshold")
        for row in rows:
            point = rescored.points.get(row[0])
            row.insert(1, f"{point.threshold:.3f}" if point else "")
    table(head, rows, title=f"{rescored.part} of {name}")
    for line in rescored.notes:
        print(f"  note: {line}")
    for label, point in rescored.points.items():
        if not point.met and label in rescored.labels:
            print(f"  {label}: {point.chosen}")


def _progress(metrics: Any) -> None:
    """A row an epoch: train and val of every metric that sums the labels up."""
    from cxr_ray.evaluation.rescore import PROGRESS

    wide = metrics[metrics["metric"].isin(PROGRESS) & metrics["label"].isin(["", "mean"])]
    if not len(wide):
        return
    whole = wide.pivot_table(index="epoch", columns=["metric", "part"], values="value", aggfunc="first")
    columns = [(m, p) for m in PROGRESS for p in ("train", "val") if (m, p) in whole.columns]
    rows = [[int(e), *(float(whole.loc[e, c]) for c in columns)] for e in whole.index]
    table(["epoch", *(f"{p}\n{m.replace('_', ' ')}" for m, p in columns)], rows, title="by epoch")
