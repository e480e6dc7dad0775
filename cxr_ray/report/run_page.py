"""The report of an evaluated run: which values it shows, in which order. The layout is run.html, the figures are plots.py."""
# N rows, L labels

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.config import Config
from cxr_ray.evaluation import analysis
from cxr_ray.evaluation.baselines import MAX_ROWS
from cxr_ray.labels import PARTS
from cxr_ray.metrics import AVERAGES, MEAN, TABLE_METRICS
from cxr_ray.metrics.names import MICRO, WEIGHTED
from cxr_ray.metrics.titles import NAMES, heading
from cxr_ray.plotting import plots, run_figures
from cxr_ray.plotting.plots import Figure
from cxr_ray.report import sections, statements
from cxr_ray.report.comparison_page import PRIMARY
from cxr_ray.report.headline import by_metric, cell, headline_cells
from cxr_ray.report.render import jinja, write_figures
from cxr_ray.runs import Run, evaluation_files, is_selected_on_val
from cxr_ray.storage.atomic import write_atomic

Images = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.uint8]]

DETAIL_COLUMNS = ("specificity", "npv", "brier", "ece")

BASELINE_COLUMNS = {
    "multilabel": (("auroc", MEAN), ("ap", MEAN), ("recall", MEAN), ("f1", MEAN)),
    "binary": (("accuracy", ""), ("auroc", MEAN), ("ap", MEAN), ("f1", MEAN)),
    "multiclass": (("accuracy", ""), ("f1", MEAN), ("auroc", MEAN), ("ap", MEAN)),
}

SAMPLES = tuple(f"{over}_{m}" for over in ("sample", "finding") for m in ("recall", "precision", "f1"))

OVERALL = {
    "multilabel": ("exact_match", "hamming", *SAMPLES),
    "binary": (),
    "multiclass": ("accuracy", "top2", "top3", "top5"),
}


def write(
    run: Run,
    part: str,
    *,
    evaluation: dict[str, Any] | None = None,
    predictions: pd.DataFrame | None = None,
    path: Path | None = None,
    images: Images | None = None,
) -> Path:
    """Write the page (`report.html` for test) into the run's folder from the evaluation and predictions of `part`; returns its path.

    `evaluation`, `predictions` and `path` replace what the run folder has. `images` maps store rows [N] to pictures uint8
    [N, H, W]: with it the worst errors are shown.

    The page is one file, loads nothing and names no patient; every figure is also written to `figures/` as PNG. Equal runs
    give equal bytes. Raises `UserError` if the part was not evaluated."""
    evaluation = run.evaluation(part) if evaluation is None else evaluation
    predictions = run.predictions(part) if predictions is None else predictions
    info, config = run.info, run.config
    values = by_metric(evaluation["values"], evaluation["labels"])
    figures: dict[str, Figure] = {}
    parts = _parts(run, info)
    if evaluation["confusion"]:
        figures["confusion"] = plots.confusion(evaluation["confusion"], evaluation["classes"], part=part)
    if any(p["labels"] for p in parts.values()):
        figures["prevalence"] = plots.prevalence(parts, evaluation["labels"])
    calibrated = None
    if evaluation.get("calibration"):
        prob_NL = predictions[[f"prob/{k}" for k in evaluation["labels"]]].to_numpy()
        calibrated = analysis.recalibrated(evaluation["calibration"], prob_NL, evaluation["labels"])
    curves = _curves(predictions, evaluation, calibrated and calibrated[1], figures, part=part)
    select = "best" if is_selected_on_val(info, config.train) else "last"
    epochs = _epochs(run.metrics, info, select, evaluation["task"], figures, name=run.path.name)
    path = path or evaluation_files.of_part(run, part).page
    recalls, at_recall = sections.at_recall_rows(evaluation)
    page = (
        jinja()
        .get_template("run.html")
        .render(
            name=run.path.name,
            architecture=run.architecture,
            part=part,
            info=info,
            config=config,
            evaluation=evaluation,
            labels=evaluation["labels"],
            names=NAMES,
            headline=headline_cells(evaluation),
            unit=statements.unit(evaluation),
            ranges=statements.has_intervals(evaluation),
            means=statements.means_text(evaluation),
            standing=statements.standing(run, part, evaluation),
            facts=_facts(evaluation, info, config, part, parts),
            table=label_table(evaluation, values),
            overall=[cell(values, m, "", evaluation["task"]) for m in OVERALL[evaluation["task"]] if (m, "") in values],
            details=_details(evaluation, values),
            operating=sections.operating_rows(evaluation),
            recalls=recalls,
            at_recall=at_recall,
            explorer=[] if evaluation["task"] == "multiclass" else sections.explorer(predictions, evaluation),
            calibration=sections.calibration_rows(evaluation),
            calibrated=calibrated and sections.METHODS[calibrated[0]],
            groups=sections.group_sections(evaluation),
            shortcuts=analysis.shortcut_messages(evaluation.get("groups") or [], values),
            pictures=sections.worst(predictions, evaluation, images) if images else [],
            calibrated_colour=plots.CALIBRATED,
            colour=plots.ACCENT,
            cautions=statements.cautions(evaluation, info, part),
            limits=sorted(set(evaluation["thresholds"].values())),
            undefined=_undefined(evaluation["undefined"]),
            baselines=_baselines(evaluation, values),
            baseline_columns=[
                heading(m, label, evaluation["task"]) for m, label in BASELINE_COLUMNS[evaluation["task"]]
            ],
            verdict=statements.verdict(evaluation),
            confusion=figures.get("confusion"),
            curves=curves,
            epochs=epochs,
            courses=run_figures.courses(run.metrics),
            parts=parts,
            prevalence=figures.get("prevalence"),
            colours=plots.PART_COLOURS,
            policies=statements.POLICIES,
            yaml=config.to_yaml(),
            environment=run.environment,
        )
    )
    write_atomic(path, page)
    write_figures(path.with_name("figures" if path.name == "report.html" else f"figures-{path.stem}"), figures)
    return path


def _facts(
    evaluation: dict[str, Any], info: dict[str, Any], config: Config, part: str, parts: dict[str, Any]
) -> dict[str, str]:
    """Sentences of the page by the place where they stand."""
    train_rows = parts["train"]["rows"] if "train" in parts else 0
    evaluated_source = (evaluation.get("external") or info["store"])["source"]
    return {
        "split": statements.split_text(config, parts),
        "epochs": statements.epochs_text(info, config),
        "selected": statements.selected_epoch_text(info, config),
        "blank": statements.blank_text(evaluation, config),
        "truth": statements.ground_truth(evaluated_source),
        "validity": statements.validity(evaluation, part, evaluated_source),
        "operating": statements.operating_text(evaluation, part),
        "recall": statements.high_recall_text(evaluation, sections.at_recall_rows(evaluation)[0], part),
        "baselines": statements.baselines_text(evaluation, train_rows, MAX_ROWS),
        "augmented": ", on augmented images" if statements.is_augmented(config) else "",
    }


AVERAGED = {
    MEAN: "Mean",
    MICRO: "Micro average",
    WEIGHTED: "Weighted mean",
}


def _details(evaluation: dict[str, Any], values: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """The second table: false negatives, false positives and true negatives of each label, and the metrics that the first table
    leaves out."""
    out: list[dict[str, Any]] = []
    for label in evaluation["labels"]:
        if ("positives", label) not in values:
            continue
        positives, predicted, hit = (
            values[m, label]["value"] for m in ("positives", "predicted_positives", "true_positives")
        )
        cells = [values.get((m, label)) for m in DETAIL_COLUMNS]
        delong = evaluation["delong"].get(label)
        rows = values["positives", label]["rows"]
        counts = [int(positives - hit), int(predicted - hit), int(rows - positives - predicted + hit)]
        out.append({"label": label, "counts": counts, "cells": cells, "delong": delong})
    return out


def label_table(evaluation: dict[str, Any], values: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each label and, if there are several, for each average."""
    counts = ("positives", "predicted_positives", "true_positives")
    out: list[dict[str, Any]] = []
    averages = [a for a in AVERAGES if len(evaluation["labels"]) > 1 and ("recall", a) in values]
    for label in [*evaluation["labels"], *averages]:
        cells = [values.get((metric, label)) for metric in TABLE_METRICS]
        numbers = [int(values[m, label]["value"]) if (m, label) in values else None for m in counts]
        known = values["positives", label]["rows"] if ("positives", label) in values else None
        mean = label not in evaluation["labels"]
        shown = AVERAGED[label] if mean else label
        out.append({"label": shown, "counts": numbers, "cells": cells, "known": known, "mean": mean})
    return out


def _undefined(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """One entry for each label and reason, its metrics joined."""
    names: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        names.setdefault((row["label"], row["reason"]), []).append(NAMES[row["metric"]])
    return [{"label": k[0], "reason": k[1], "metrics": ", ".join(v)} for k, v in names.items()]


def _baselines(evaluation: dict[str, Any], values: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    if not evaluation["rivals"]:
        return []
    columns = BASELINE_COLUMNS[evaluation["task"]]
    rows: list[tuple[str, dict[tuple[str, str], Any], dict[tuple[str, str], Any]]] = [("This model", values, {})]
    for name, found in evaluation["rivals"].items():
        gap = {(d["metric"], d["label"]): d for d in evaluation["differences"][name]}
        shown = statements.BASELINES.get(name, name).removeprefix("the ").capitalize()
        rows.append((shown, by_metric(found, evaluation["labels"]), gap))
    return [
        {
            "name": name,
            "cells": [cell(by_metric, m, label, evaluation["task"]) for m, label in columns],
            "gap": gap.get(PRIMARY[evaluation["task"]]),
        }
        for name, by_metric, gap in rows
    ]


def _curves(
    predictions: pd.DataFrame,
    evaluation: dict[str, Any],
    recalibrated_NL: npt.NDArray[np.float64] | None,
    figures: dict[str, Figure],
    *,
    part: str,
) -> list[dict[str, Any]]:
    """ROC, precision-recall and reliability plots of each label that has positives and negatives, with the operating point."""
    out: list[dict[str, Any]] = []
    labels, values = evaluation["labels"], evaluation["values"]
    for label, draws in run_figures.by_label(predictions, labels, values, recalibrated_NL, part=part).items():
        truth_N = predictions[f"true/{label}"].to_numpy()
        panels = {kind: draw() for kind, draw in draws.items()}
        figures |= {f"{kind}-{label}": figure for kind, figure in panels.items()}
        about = f"{(truth_N == 1.0).sum():,} of {(~np.isnan(truth_N)).sum():,} positive"
        out.append({"label": label, "about": about, **panels})
    return out


def _epochs(
    metrics: pd.DataFrame, info: dict[str, Any], select: str, task: str, figures: dict[str, Figure], *, name: str
) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    last = int(metrics["epoch"].max()) if len(metrics) else None
    chosen = last if select == "last" else (info.get("best") or {}).get("epoch")
    for metric, (label, draw) in run_figures.by_epoch(metrics, chosen=chosen, task=task).items():
        figures[f"epochs-{metric}"] = draw()
        out.append({"name": heading(metric, label, task), "figure": figures[f"epochs-{metric}"]})
    title = f"{name} by epoch"
    figures |= {
        key: draw() for key, draw in run_figures.training(metrics, chosen=chosen, task=task, title=title).items()
    }
    return out


def _parts(run: Run, info: dict[str, Any]) -> dict[str, Any]:
    """Rows, samples an epoch, patients and prevalence of each part that has rows (run.json has the prevalence)."""
    plan, prevalence = run.plan, info.get("prevalence", {})
    out: dict[str, Any] = {}
    for part in PARTS:
        rows = plan[plan["part"] == part]
        if len(rows):
            about = prevalence.get(part, {"patients": None, "labels": {}})
            out[part] = {
                "rows": len(rows),
                "samples": int(rows["drawn"].sum()),
                **{k: about[k] for k in ("patients", "labels")},
            }
    return out
