"""The one-file report of a judged run: what is said, in which order. How it looks is template.html, figures plots.py."""
# N rows, L labels

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from cxr_ray.evaluation import analysis
from cxr_ray.labels import PARTS
from cxr_ray.metrics import AVERAGES, MAIN_METRICS, MEAN, TABLE_METRICS
from cxr_ray.metrics.names import MICRO, WEIGHTED
from cxr_ray.report import plots, sections
from cxr_ray.report.render import NAMES, _write_figures, interval, jinja, number, thousands
from cxr_ray.runs import Run
from cxr_ray.storage.atomic import write_atomic

Images = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.uint8]]

DETAIL_COLUMNS = ("specificity", "npv", "brier", "ece")

HEADLINE = {
    "multilabel": (*((m, MEAN) for m in MAIN_METRICS), ("ap", MEAN)),
    "binary": (("accuracy", ""), *((m, MEAN) for m in MAIN_METRICS)),
    "multiclass": (("accuracy", ""), ("f1", MEAN), ("recall", MEAN), ("auroc", MEAN)),
}

BASELINE_COLUMNS = {
    "multilabel": (("auroc", MEAN), ("ap", MEAN), ("recall", MEAN), ("f1", MEAN)),
    "binary": (("accuracy", ""), ("auroc", MEAN), ("ap", MEAN), ("f1", MEAN)),
    "multiclass": (("accuracy", ""), ("f1", MEAN), ("auroc", MEAN), ("ap", MEAN)),
}

PRIMARY = {"multilabel": ("auroc", MEAN), "binary": ("auroc", MEAN), "multiclass": ("f1", MEAN)}

SAMPLES = tuple(f"{over}_{m}" for over in ("sample", "finding") for m in ("recall", "precision", "f1"))

WHOLE = {
    "multilabel": ("exact_match", "hamming", *SAMPLES),
    "binary": (),
    "multiclass": ("accuracy", "top2", "top3", "top5"),
}

EPOCHS = ("loss", "accuracy", *TABLE_METRICS, "exact_match", "hamming")

BASELINES = {"thumbnail": "the 16 × 16 thumbnail", "border": "the thumbnail's border"}

POLICIES = {
    "zeros": "read as negative",
    "ones": "read as positive",
    "ignore": "left out as unknown",
    "smooth": "drawn from 0.55 to 0.85",
    "smooth_zeros": "drawn from 0 to 0.3",
}

FEW = 10  # positives under which a label's figures are said to mean little


def write(
    run: Run,
    part: str,
    *,
    judged: dict[str, Any] | None = None,
    predictions: pd.DataFrame | None = None,
    path: Path | None = None,
    images: Images | None = None,
) -> Path:
    """Write `report.html` into the run's folder from its evaluation and predictions of `part`; gives its path.

    What was just found and its predictions may be handed over, and another place for the page.

    `images`, where given, gives the pictures of store rows: the worst misses and false alarms are then shown.

    One file that loads nothing and names no patient; every figure lies beside it in `figures/` as PNG. Equal runs give equal
    bytes. Raises `UserError` where the part was not evaluated."""
    judged = run.evaluation(part) if judged is None else judged
    predictions = run.predictions(part) if predictions is None else predictions
    info, config = run.info, run.config
    values = {(v["metric"], v["label"]): v for v in judged["values"]}
    figures: dict[str, Figure] = {}
    parts = _parts(run, info)
    if judged["confusion"]:
        figures["confusion"] = plots.confusion(judged["confusion"], judged["classes"])
    if any(p["labels"] for p in parts.values()):
        figures["prevalence"] = plots.prevalence(parts, judged["labels"])
    mended = None
    if judged.get("calibration"):
        prob_NL = predictions[[f"prob/{k}" for k in judged["labels"]]].to_numpy()
        mended = analysis.after(judged["calibration"], prob_NL, judged["labels"])
    curves = _curves(predictions, judged, values, mended, figures)
    epochs = _epochs(run.metrics, info, config.train.select, judged["task"], figures)
    path = path or run.path / "report.html"
    recalls, at_recall = sections.at_recall_rows(judged)
    page = (
        jinja()
        .get_template("template.html")
        .render(
            name=run.path.name,
            architecture=run.architecture,
            part=part,
            info=info,
            config=config,
            judged=judged,
            labels=judged["labels"],
            names=NAMES,
            headline=[_cell(values, metric, label, judged["task"]) for metric, label in HEADLINE[judged["task"]]],
            standing=_standing(part, judged, info, config.train.select),
            table=_label_table(judged, values),
            whole=[_cell(values, m, "", judged["task"]) for m in WHOLE[judged["task"]] if (m, "") in values],
            details=_details(judged, values),
            operating=sections.operating_rows(judged),
            recalls=recalls,
            at_recall=at_recall,
            explorer=[] if judged["task"] == "multiclass" else sections.explorer(predictions, judged),
            calibration=sections.calibration_rows(judged),
            mended=mended and sections.METHODS[mended[0]],
            groups=sections.group_sections(judged),
            shortcuts=analysis.shortcut_words(judged.get("groups") or [], values),
            pictures=sections.worst(predictions, judged, images) if images else [],
            mended_colour=plots.CALIBRATED,
            colour=plots.ACCENT,
            cautions=_cautions(judged, info, part),
            limits=sorted(set(judged["thresholds"].values())),
            undefined=_undefined(judged["undefined"]),
            baselines=_baselines(judged, values),
            baseline_columns=[_title(m, label, judged["task"]) for m, label in BASELINE_COLUMNS[judged["task"]]],
            verdict=_verdict(judged),
            confusion=figures.get("confusion"),
            curves=curves,
            epochs=epochs,
            parts=parts,
            prevalence=figures.get("prevalence"),
            colours=plots.PART_COLOURS,
            policies=POLICIES,
            yaml=config.to_yaml(),
            environment=run.environment,
        )
    )
    write_atomic(path, page)
    _write_figures(path.with_name("figures" if path.name == "report.html" else f"figures-{path.stem}"), figures)
    return path


def write_comparison(found: dict[str, Any], path: Path) -> None:
    """Write the page of a comparison (`compare.compare`): one file that loads nothing."""
    page = jinja().get_template("comparison.html").render(found=found, names=NAMES, first=TABLE_METRICS)
    write_atomic(path, page)


def _title(metric: str, label: str, task: str) -> str:
    if label != MEAN or task == "binary":
        return NAMES[metric]
    if metric == "f1" and task == "multiclass":
        return "Macro F1"
    name = NAMES[metric]
    return f"Mean {name if name.isupper() or name.startswith('ROC') else name.lower()}"


def _cell(values: dict[tuple[str, str], dict[str, Any]], metric: str, label: str, task: str) -> dict[str, Any]:
    row = values.get((metric, label))
    return {"name": _title(metric, label, task), "value": row and row["value"], "interval": interval(row)}


def _standing(part: str, judged: dict[str, Any], info: dict[str, Any], select: str) -> str:
    people = f" of {thousands(judged['patients'])} patients" if judged["patients"] else ""
    on = f"{thousands(judged['rows'])} images{people}"
    if judged.get("external"):
        return (
            f"Judged on other data: the store {judged['external']['store']} of {judged['external']['source']}, {on}. "
            "Thresholds and calibration are from the run's own val."
        )
    if part == "test":
        looks = info["test_looks"]
        times = "once" if looks == 1 else f"{looks} times"
        return f"Judged on the test part, {on}, used neither to fit the model nor to choose it. Test has been looked at {times}."
    if part == "train":
        return f"Judged on the train part, {on}: the images that the model was fitted to. This says nothing of other images."
    if select == "last":
        return f"Judged on val, {on}. The last epoch was kept as it came, so val chose nothing in this run."
    return f"Judged on val, {on}. Val is the part that chose the epoch, so these figures flatter the model; they are not a test."


AVERAGED = {
    MEAN: "Mean",
    MICRO: "Micro (all cells together)",
    WEIGHTED: "Weighted by positives",
}


def _details(judged: dict[str, Any], values: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """The second table: misses, false alarms and true negatives of each label (beside the true positives of the first table, its
    confusion matrix), and the metrics that the first leaves out."""
    out: list[dict[str, Any]] = []
    for label in judged["labels"]:
        if ("positives", label) not in values:
            continue
        positives, said, hit = (
            values[m, label]["value"] for m in ("positives", "predicted_positives", "true_positives")
        )
        cells = [values.get((m, label)) for m in DETAIL_COLUMNS]
        delong = judged["delong"].get(label)
        rows = values["positives", label]["rows"]
        counts = [int(positives - hit), int(said - hit), int(rows - positives - said + hit)]
        out.append({"label": label, "counts": counts, "cells": cells, "delong": delong})
    return out


def _label_table(judged: dict[str, Any], values: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a label and, where there are several, their averages."""
    counts = ("positives", "predicted_positives", "true_positives")
    out: list[dict[str, Any]] = []
    averages = [a for a in AVERAGES if len(judged["labels"]) > 1 and ("recall", a) in values]
    for label in [*judged["labels"], *averages]:
        cells = [values.get((metric, label)) for metric in TABLE_METRICS]
        numbers = [int(values[m, label]["value"]) if (m, label) in values else None for m in counts]
        known = values["positives", label]["rows"] if ("positives", label) in values else None
        mean = label not in judged["labels"]
        shown = AVERAGED[label] if mean else label
        out.append({"label": shown, "counts": numbers, "cells": cells, "known": known, "mean": mean})
    return out


def _undefined(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """One line a label and reason, its metrics joined."""
    held: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        held.setdefault((row["label"], row["reason"]), []).append(NAMES[row["metric"]])
    return [{"label": k[0], "reason": k[1], "metrics": ", ".join(v)} for k, v in held.items()]


def _cautions(judged: dict[str, Any], info: dict[str, Any], part: str) -> list[str]:
    out = [*info["store"].get("notes", []), *(judged.get("external") or {}).get("notes", [])]
    few = [
        (v["label"], v["positives"])
        for v in judged["values"]
        if v["metric"] == "positives" and v["rows"] and v["positives"] < FEW
    ]
    if few:
        listed = ", ".join(f"{label} ({n or 'none'})" for label, n in few)
        out.append(f"Fewer than {FEW} positives in {part}: {listed}. Their figures say little.")
    by = judged["interval"]
    if by["asked"] == "patient" and by["by"] == "image":
        out.append(
            "No patient is known for these images, so intervals take images as independent and may be too narrow."
        )
    return [*out, *info.get("warnings", [])]


def _baselines(judged: dict[str, Any], values: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    if not judged["rivals"]:
        return []
    columns = BASELINE_COLUMNS[judged["task"]]
    rows: list[tuple[str, dict[tuple[str, str], Any], dict[tuple[str, str], Any]]] = [("This model", values, {})]
    for name, held in judged["rivals"].items():
        gap = {(d["metric"], d["label"]): d for d in judged["differences"][name]}
        shown = BASELINES.get(name, name).removeprefix("the ").capitalize()
        rows.append((shown, {(v["metric"], v["label"]): v for v in held}, gap))
    return [
        {
            "name": name,
            "cells": [_cell(held, m, label, judged["task"]) for m, label in columns],
            "gap": gap.get(PRIMARY[judged["task"]]),
        }
        for name, held, gap in rows
    ]


def _verdict(judged: dict[str, Any]) -> list[str]:
    """What the rivals say of the model, in words that a small difference does not outrun."""
    metric, label = PRIMARY[judged["task"]]
    title = _title(metric, label, judged["task"])
    title = title if title.startswith("ROC") else title[0].lower() + title[1:]
    found = [
        (d, name)
        for name, gaps in judged["differences"].items()
        for d in gaps
        if (d["metric"], d["label"]) == (metric, label)
    ]
    if not found:
        return []
    gap, baseline = min(found, key=lambda f: f[0]["value"])
    side, against = "above" if gap["value"] >= 0 else "below", BASELINES.get(baseline, baseline)
    said = f"Its {title} is {number(abs(gap['value']))} {side} that of its strongest trivial rival ({against}"
    if gap.get("low") is None:
        out = [f"{said}); no interval was computed, so chance is not excluded."]
    elif gap["low"] > 0:
        out = [f"{said}; difference {interval(gap)}): the model uses more of the picture than a thumbnail shows."]
    elif gap["high"] < 0:
        out = [f"{said}; difference {interval(gap)}): it is worse than a regression on 256 gray values. Do not use it."]
    else:
        out = [
            f"{said}; difference {interval(gap)}), which chance alone may give: it is not shown to beat a trivial rule."
        ]
    border = {(v["metric"], v["label"]): v for v in judged["rivals"].get("border", [])}.get(("auroc", MEAN))
    if border and (border["value"] == 1.0 or border.get("low", 0.0) > 0.5):  # 1.0 has no interval
        out.append(
            f"The border alone, where there is hardly any lung, ranks with a ROC AUC of {number(border['value'])}: "
            "something other than what the lungs show (source, view, collimation, letters) goes with the labels here."
        )
    return out


def _curves(
    predictions: pd.DataFrame,
    judged: dict[str, Any],
    values: dict[tuple[str, str], dict[str, Any]],
    mended: "tuple[str, npt.NDArray[np.float64]] | None",
    figures: dict[str, Figure],
) -> list[dict[str, Any]]:
    """ROC, precision-recall and reliability of each label that has both classes, the operating point marked."""
    out: list[dict[str, Any]] = []
    for i, label in enumerate(judged["labels"]):
        truth_N = predictions[f"true/{label}"].to_numpy()
        known = ~np.isnan(truth_N)
        true_N, score_N = truth_N[known] == 1.0, predictions[f"prob/{label}"].to_numpy()[known].astype(np.float64)
        if not true_N.any() or true_N.all():
            continue
        at = {m: values[m, label]["value"] for m in ("recall", "specificity", "precision") if (m, label) in values}
        point = (at["recall"], at["precision"]) if "precision" in at else None
        drawn = {
            "roc": plots.roc(true_N, score_N, (1 - at["specificity"], at["recall"])),
            "pr": plots.precision_recall(true_N, score_N, point),
            "reliability": plots.reliability(true_N, score_N, mended[1][known, i] if mended else None),
        }
        figures |= {f"{kind}-{label}": figure for kind, figure in drawn.items()}
        out.append({"label": label, "about": f"{true_N.sum():,} of {len(true_N):,} positive", **drawn})
    return out


def _epochs(
    metrics: pd.DataFrame, info: dict[str, Any], select: str, task: str, figures: dict[str, Figure]
) -> list[dict[str, Any]]:
    if not len(metrics) or metrics["epoch"].nunique() < 2:
        return []
    best = info.get("best") or {}
    chosen = int(metrics["epoch"].max()) if select == "last" else best.get("epoch")
    out: list[dict[str, Any]] = []
    for metric in EPOCHS:
        rows = metrics[(metrics["metric"] == metric) & metrics["part"].isin(["train", "val"])]
        label = MEAN if (rows["label"] == MEAN).any() and not (rows["label"] == "").any() else ""
        rows = rows[rows["label"] == label]
        if len(rows) and not (task == "binary" and metric in ("exact_match", "hamming")):
            figures[f"epochs-{metric}"] = plots.progress(rows, chosen=chosen)
            out.append({"name": _title(metric, label, task), "figure": figures[f"epochs-{metric}"]})
    return out


def _parts(run: Run, info: dict[str, Any]) -> dict[str, Any]:
    """Rows, draws, patients and prevalence of each part that has rows (`run.json` holds `metrics.prevalence` of each)."""
    plan, held = run.plan, info.get("prevalence", {})
    out: dict[str, Any] = {}
    for part in PARTS:
        rows = plan[plan["part"] == part]
        if len(rows):
            about = held.get(part, {"patients": None, "labels": {}})
            out[part] = {
                "rows": len(rows),
                "drawn": int(rows["drawn"].sum()),
                **{k: about[k] for k in ("patients", "labels")},
            }
    return out
