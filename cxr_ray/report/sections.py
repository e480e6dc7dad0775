"""The parts of the page beside the metrics: operating points, the threshold explorer, calibration, groups, pictures."""
# N rows, L labels

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from cxr_ray.evaluation import analysis
from cxr_ray.evaluation.results import table_of
from cxr_ray.metrics import MAIN_METRICS, MEAN
from cxr_ray.metrics.ranking import at_each_score

STOPS = 160  # of the explorer's slider: thresholds at even steps of the rows called positive, and the operating point
WORST = 4  # pictures of each kind and label
PICTURE_SIDE = 160
METHODS = {
    analysis.AS_TRAINED: "As the model gives it",
    analysis.UNSHIFTED: "Weights and draws taken out",
    "temperature": "Temperature, fitted on val",
    "platt": "Platt, fitted on val",
    "isotonic": "Isotonic, fitted on val",
}


def operating_rows(judged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a label: its threshold, why the rule could not be kept, what it gives on val and on the part judged."""
    told = judged["operating"]
    return [
        {
            "label": k,
            **p,
            "but": "" if p["met"] else p["chosen"].partition("; ")[2] or p["chosen"],
            "here": told["here"][k],
        }
        for k, p in told["points"].items()
    ]


def at_recall_rows(judged: Mapping[str, Any]) -> tuple[list[float], list[dict[str, Any]]]:
    """The recalls asked for, and a row a label with what each gives on the part judged."""
    recalls = sorted({r["recall"] for r in judged["at_recall"]})
    rows = [
        {"label": label, "cells": [r for r in judged["at_recall"] if r["label"] == label]} for label in judged["labels"]
    ]
    return recalls, rows if recalls else []


def explorer(predictions: pd.DataFrame, judged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each label the thresholds that a slider stops at (falling), and true and false positives at or above each."""
    out: list[dict[str, Any]] = []
    for label in judged["labels"]:
        truth_N = predictions[f"true/{label}"].to_numpy()
        known = ~np.isnan(truth_N)
        true_N, score_N = truth_N[known] == 1.0, predictions[f"prob/{label}"].to_numpy()[known]
        if not len(true_N) or not true_N.any():
            continue
        score_K, tp_K, fp_K = at_each_score(true_N, score_N)
        called_K = tp_K + fp_K
        stops = np.searchsorted(called_K, np.linspace(called_K[0], called_K[-1], STOPS)).clip(0, len(score_K) - 1)
        # A stop at the operating point itself: the lowest score that it still calls positive.
        limit = score_K.dtype.type(judged["thresholds"][label])
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


def calibration_rows(judged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a way of calibrating: mean calibration error and Brier score, of how many labels the interval of the slope holds
    1, and the slope that is furthest from it."""
    found = judged.get("calibration") or {"methods": {}}
    rows = []
    for name, held in found["methods"].items():
        off = max(held["slope"].items(), key=lambda s: abs(np.log(max(s[1][0], 1e-3))), default=None)
        rows.append(
            {
                "name": METHODS[name],
                "ece": held["ece"].get(MEAN),
                "brier": held["brier"].get(MEAN),
                "holds": sum(low <= 1.0 <= high for _, low, high in held["slope"].values()),
                "of": len(held["slope"]),
                "slope": None
                if off is None
                else {"label": off[0], "value": off[1][0], "low": off[1][1], "high": off[1][2]},
            }
        )
    return rows


def group_sections(judged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A section a feature: its categories with mean recall, AUROC and precision, and the largest gap of each in words."""
    out = []
    many = len(judged["labels"]) > 1
    for entry in judged.get("groups") or []:
        rows = []
        for group in entry["groups"]:
            held = {(v["metric"], v["label"]): v for v in group["values"]}
            rows.append(
                {
                    "category": group["category"],
                    "rows": group["rows"],
                    "positives": sum(int(v["value"]) for v in group["values"] if v["metric"] == "positives"),
                    "cells": [held.get((m, MEAN)) for m in MAIN_METRICS],
                }
            )
        gaps = [gap for metric in MAIN_METRICS if (gap := analysis.widest(entry, metric))]
        out.append({"feature": entry["feature"], "rows": rows, "gaps": gaps, "many": many})
    return out


def worst(predictions: pd.DataFrame, judged: Mapping[str, Any], images: Any) -> list[dict[str, Any]]:
    """For each label the missed positives with the lowest and the false alarms with the highest probabilities, as pictures.

    `images` gives uint8 [N, H, W] of store rows [N]. Nothing but the picture and its probability is told: no row, no patient."""
    out = []
    labels = judged["labels"]
    limits_L = np.array([judged["thresholds"][k] for k in labels])
    table = table_of(predictions, labels, judged["task"], limits_L)
    for i, label in enumerate(labels):
        prob_N, said_N = table.prob_NL[:, i], table.positive_NL[:, i]
        known_N, true_N = table.known_NL[:, i], table.true_NL[:, i]
        kinds = {}
        for kind, here_N, sign in (("missed", true_N & ~said_N, 1), ("alarms", known_N & ~true_N & said_N, -1)):
            chosen = np.flatnonzero(here_N)[np.argsort(sign * prob_N[here_N], kind="stable")[:WORST]]
            pictures = images(predictions["row"].to_numpy(np.int64)[chosen]) if len(chosen) else []
            kinds[kind] = [{"src": _jpeg(p), "prob": float(q)} for p, q in zip(pictures, prob_N[chosen], strict=True)]
        if kinds["missed"] or kinds["alarms"]:
            out.append({"label": label, **kinds})
    return out


def _jpeg(pixels_HW: npt.NDArray[np.uint8]) -> str:
    picture = Image.fromarray(pixels_HW)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    out = io.BytesIO()
    picture.save(out, format="JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
