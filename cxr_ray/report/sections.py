"""Sections of the report other than its metric tables: operating points, threshold explorer, calibration, groups, worst errors."""
# N rows, L labels

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from cxr_ray.evaluation import analysis
from cxr_ray.evaluation.prediction_table import PredictionTable
from cxr_ray.evaluation.worst_errors import ALARM, MISSED, worst_errors
from cxr_ray.metrics import MAIN_METRICS, MEAN
from cxr_ray.metrics.ranking import at_each_score
from cxr_ray.metrics.subgroups import MIN_CASES
from cxr_ray.metrics.titles import NAMES
from cxr_ray.report.render import number, span

STOPS = 160  # of the slider: thresholds at even steps of the number of predicted positives, and the operating point
WORST = 4  # images of each kind and label
PICTURE_SIDE = 160
METHODS = {
    analysis.AS_TRAINED: "As predicted",
    analysis.UNSHIFTED: "Weights and oversampling subtracted",
    "temperature": "Temperature, fitted on val",
    "platt": "Platt, fitted on val",
    "isotonic": "Isotonic, fitted on val",
}


def operating_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each label: its threshold, why the rule could not be met, what it gives on val and on the evaluated part."""
    operating = evaluation["operating"]
    return [
        {
            "label": k,
            **p,
            "but": "" if p["met"] else p["chosen"].partition("; ")[2] or p["chosen"],
            "here": operating["here"][k],
        }
        for k, p in operating["points"].items()
    ]


def at_recall_rows(evaluation: Mapping[str, Any]) -> tuple[list[float], list[dict[str, Any]]]:
    """The requested recalls, and a row for each label with what each recall costs on the evaluated part."""
    recalls = sorted({r["recall"] for r in evaluation["at_recall"]})
    rows = [
        {"label": label, "cells": [r for r in evaluation["at_recall"] if r["label"] == label]}
        for label in evaluation["labels"]
    ]
    return recalls, rows if recalls else []


def explorer(predictions: pd.DataFrame, evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each label the thresholds of the slider's stops (descending), with true and false positives at or above each."""
    out: list[dict[str, Any]] = []
    for label in evaluation["labels"]:
        truth_N = predictions[f"true/{label}"].to_numpy()
        known = ~np.isnan(truth_N)
        true_N, score_N = truth_N[known] == 1.0, predictions[f"prob/{label}"].to_numpy()[known]
        if not len(true_N) or not true_N.any():
            continue
        score_K, tp_K, fp_K = at_each_score(true_N, score_N)
        called_K = tp_K + fp_K
        stops = np.searchsorted(called_K, np.linspace(called_K[0], called_K[-1], STOPS)).clip(0, len(score_K) - 1)
        # One stop is the operating point itself: the lowest score that it calls positive.
        limit = score_K.dtype.type(evaluation["thresholds"][label])
        own = int(np.count_nonzero(score_K >= limit)) - 1
        stops = np.unique(np.r_[stops, max(own, 0)])
        out.append(
            {
                "label": label,
                "rows": len(true_N),
                "positives": int(true_N.sum()),
                "at": int(np.searchsorted(stops, max(own, 0))),
                "threshold": [float(f"{t:.4g}") for t in score_K[stops]],
                "tp": tp_K[stops].astype(int).tolist(),
                "fp": fp_K[stops].astype(int).tolist(),
            }
        )
    return out


def calibration_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each calibration method: mean calibration error, mean Brier score, the number of labels whose slope's interval
    contains 1, and the slope farthest from 1."""
    found = evaluation.get("calibration") or {"methods": {}}
    rows = []
    for name, method in found["methods"].items():
        farthest = max(method["slope"].items(), key=lambda s: abs(np.log(max(s[1][0], 1e-3))), default=None)
        rows.append(
            {
                "name": METHODS[name],
                "ece": method["ece"].get(MEAN),
                "brier": method["brier"].get(MEAN),
                "holds": sum(low <= 1.0 <= high for _, low, high in method["slope"].values()),
                "of": len(method["slope"]),
                "slope": None
                if farthest is None
                else {"label": farthest[0], "value": farthest[1][0], "low": farthest[1][1], "high": farthest[1][2]},
            }
        )
    return rows


def group_sections(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A section for each feature: its categories with mean recall, AUROC and precision, and the largest gap of each metric."""
    out = []
    many = len(evaluation["labels"]) > 1
    for entry in evaluation.get("groups") or []:
        rows = []
        for group in entry["groups"]:
            by_metric = {(v["metric"], v["label"]): v for v in group["values"]}
            rows.append(
                {
                    "category": group["category"],
                    "rows": group["rows"],
                    "positives": sum(int(v["value"]) for v in group["values"] if v["metric"] == "positives"),
                    "cells": [by_metric.get((m, MEAN)) for m in MAIN_METRICS],
                }
            )
        gaps = [gap for metric in MAIN_METRICS if (gap := analysis.largest_gap(entry, metric))]
        out.append({"feature": entry["feature"], "rows": rows, "gaps": gaps, "text": _gap_text(gaps), "many": many})
    return out


def _gap_text(gaps: Sequence[Mapping[str, Any]]) -> str:
    """The largest gaps of a feature in words."""
    if not gaps:
        return f"No gap is reported: no label has {MIN_CASES} positives in two groups."
    sentences = []
    for gap in gaps:
        name = NAMES[gap["metric"]]
        if not gap["value"]:
            sentences.append(f"No gap in {name}.")
            continue
        ends = span(gap["between"]) if gap.get("between") else ""
        between = f" ({ends})" if ends else ""
        sentences.append(
            f"Largest gap in {name}: {gap['label']}, {gap['high']} above {gap['low']} by {number(gap['value'])}{between}."
        )
    return " ".join(sentences)


def worst(predictions: pd.DataFrame, evaluation: Mapping[str, Any], images: Any) -> list[dict[str, Any]]:
    """For each label the false negatives with the lowest and the false positives with the highest probabilities, as images.

    `images` maps store rows [N] to uint8 [N, H, W]. Rows are numbers in the store; no path and no patient is shown."""
    labels = evaluation["labels"]
    limits_L = np.array([evaluation["thresholds"][k] for k in labels])
    table = PredictionTable(predictions, labels, evaluation["task"]).decide(limits_L)
    errors = worst_errors(table, predictions["row"].to_numpy(np.int64))
    out = []
    for label in labels:
        kinds = {}
        for name, kind in (("missed", MISSED), ("alarms", ALARM)):
            chosen = errors[(errors["label"] == label) & (errors["kind"] == kind)].head(WORST)
            pictures = images(chosen["row"].to_numpy(np.int64)) if len(chosen) else []
            kinds[name] = [
                {
                    "src": _jpeg(picture),
                    "prob": float(error.probability),
                    "loss": float(error.loss),
                    "row": int(error.row),
                }
                for picture, error in zip(pictures, chosen.itertuples(), strict=True)
            ]
        if kinds["missed"] or kinds["alarms"]:
            out.append({"label": label, **kinds})
    return out


def _jpeg(pixels_HW: npt.NDArray[np.uint8]) -> str:
    picture = Image.fromarray(pixels_HW)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    out = io.BytesIO()
    picture.save(out, format="JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
