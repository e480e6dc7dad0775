"""`cxr-ray show`: prints a run's settings and metrics. Computing them from saved predictions is in evaluation.rescore."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from cxr_ray.cli import next_steps
from cxr_ray.cli.metric_tables import LESS_IMPORTANT, metric_table, overall_line, print_operating
from cxr_ray.cli.parameters import Words
from cxr_ray.cli.terminal import merge_notes, table
from cxr_ray.cli.thresholds import check_thresholds, read_thresholds
from cxr_ray.errors import UserError

app = App(name="show", help_format="markdown")


@app.default
def show(
    run: Path,
    /,
    *,
    labels: Words = None,
    split: Literal["train", "val", "test", "both"] | None = None,
    thresholds: Words = None,
    settings: Annotated[bool, Parameter(negative="")] = False,
    plugins: Words = None,
) -> None:
    """Show a run's settings and metrics, also for other labels, parts and thresholds.

    All metrics are computed from saved predictions: nothing is trained, and only --split both predicts, once, the part that is
    missing. Showing test with other labels or thresholds counts as a further test-set evaluation.

    Parameters
    ----------
    run
        Folder of the run.
    labels
        Labels, or a group such as competition5, to evaluate and show; averages are over these labels only.
    split
        Part to show. both: train and val, and a figure of their ROC and precision-recall curves side by side. Default: every part
        with saved predictions.
    thresholds
        One number, LABEL=NUMBER ..., or a rule that is applied on val: youden, f1, recall=0.9, specificity=0.9.
    settings
        List every setting of the run. Default: those that differ from the defaults.
    plugins
        Modules to import first. Only --split both may need them.
    """
    from cxr_ray import registry, runs
    from cxr_ray.evaluation import rescore
    from cxr_ray.runs import evaluation_files

    registry.load_plugins(plugins or ())
    saved_run = runs.load(run)
    rule = read_thresholds(thresholds)
    check_thresholds(rule, saved_run)
    chosen = rescore.chosen_labels(saved_run, labels) if labels else None
    _print_settings(saved_run, every=settings)
    predicted = rescore.predicted_parts(saved_run)
    parts = predicted if split is None else ["train", "val"] if split == "both" else [split]
    if split == "both":
        from cxr_ray.workflows import part_curves

        try:
            part_curves.predict_missing(saved_run)
        except UserError as error:
            print(f"the parts cannot be shown side by side: {error}")
        predicted = rescore.predicted_parts(saved_run)
        parts = [part for part in parts if part in predicted]
    for part in parts:
        rescored = rescore.rescore(saved_run, part, labels=chosen, thresholds=rule)
        _print_metrics(rescored, saved_run.info["task"], saved_run.path.name)
    if split == "both" and len(parts) == 2:
        print(f"curves: {part_curves.write(saved_run, chosen or saved_run.info['labels'])}")
    if rescore.epoch_files(saved_run) or (chosen is None and rule is None):
        _print_epochs(rescore.progress(saved_run, labels=chosen, thresholds=rule))
    else:
        print(
            "epochs: their predictions were not saved (--report.keep_predictions true), so they cannot be evaluated again"
        )
    if "test" in parts and (rule is not None or chosen is not None):
        print(f"test-set evaluations so far: {saved_run.count_test_evaluation()}")
    print(f"run: {saved_run.path}")
    pages = [files.page for files, _ in evaluation_files.every(saved_run) if files.page.is_file()]
    if (index := saved_run.path / evaluation_files.INDEX).is_file() and pages:
        print(f"report: {pages[0]}")
        print(f"all reports: {index}")
    elif (page := saved_run.path / "report.html").is_file():
        print(f"report: {page}")
    else:
        next_steps.show(f"{next_steps.after_training(saved_run)}")


def _print_settings(run: Any, *, every: bool) -> None:
    """Print the settings that differ from their defaults, or all of them, and the state of the run."""
    from cxr_ray import config as configs
    from cxr_ray.cli import flags
    from cxr_ray.runs import selected_text

    given, default = run.config.model_dump(mode="json"), configs.Config().model_dump(mode="json")
    rows = []
    for name, _ in flags.settings(configs.Config):
        value, usual = given, default
        for part in name.split("."):
            value, usual = value[part], usual[part]
        if every or (value != usual and name not in ("name", "output")):
            rows.append([name, flags.plain(value), flags.plain(usual)])
    which = "settings" if every else "settings that differ from the defaults"
    table(["setting", "value", "default"], rows, title=f"{run.path.name}: {which}")
    info = run.info
    if run.members:
        print(
            f"{run.architecture}: {', '.join(member.path.name for member in run.members)}; the settings are those of the first"
        )
    state = f"{info['status']}, {info.get('epochs', 0)} epochs, {info['task']}, {len(info['labels'])} labels, store {info['store']['path']}"
    print(state + (f"; model of {selected_text(info, run.config.train)}" if info.get("best") else ""))


def _print_metrics(rescored: Any, task: str, name: str) -> None:
    """Print the metrics of one part by label, with thresholds and notes."""
    values = [v._asdict() for v in rescored.values]
    head, *rows = metric_table(values, rescored.labels)
    if task != "multiclass":
        head.insert(1, "threshold")
        for row in rows:
            point = rescored.points.get(row[0])
            row.insert(1, f"{point.threshold:.3f}" if point else "")
    table(head, rows, title=f"{rescored.part} of {name}", first_out=LESS_IMPORTANT)
    if overall := overall_line(values, task):
        print(overall)
    for line in rescored.notes:
        print(f"  note: {line}")
    if task == "multiclass":
        print_operating({"task": task, "part": rescored.part, "operating": rescored.operating, "at_recall": []})
        return
    unmet = {k: p.chosen for k, p in rescored.points.items() if not p.met and k in rescored.labels}
    for line in merge_notes(unmet):
        print(f"  {line}")


def _print_epochs(metrics: Any) -> None:
    """Print one row per epoch: the overall metrics of train and val."""
    from cxr_ray.evaluation.rescore import PROGRESS

    overall = metrics[metrics["metric"].isin(PROGRESS) & metrics["label"].isin(["", "mean"])]
    if not len(overall):
        return
    by_epoch = overall.pivot_table(index="epoch", columns=["metric", "part"], values="value", aggfunc="first")
    columns = [(m, p) for m in PROGRESS for p in ("train", "val") if (m, p) in by_epoch.columns]
    rows = [[int(e), *(float(by_epoch.loc[e, c]) for c in columns)] for e in by_epoch.index]
    table(["epoch", *(f"{p}\n{m.replace('_', ' ')}" for m, p in columns)], rows, title="by epoch")
