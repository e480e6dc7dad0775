"""Every sentence of a report stands where its condition holds, and nowhere else: reports of many kinds of runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from cxr_ray import config as cfg
from cxr_ray.registry import SOURCES
from cxr_ray.report import statements
from tests.fakes.figures import skip_drawing
from tests.fakes.reports import Kind, Report, write
from tests.report.test_run_page import CLASSES, evaluation_of, predictions

CHOICES = ("the epoch", "the thresholds", "the learning rate", "the end", "the hyperparameters")
OFFICIAL = {"data": {"split": {"test": "official", "val": "official"}}}
KINDS = {
    "several labels": Kind(),
    "classes": Kind("multiclass", source="covid_radiography"),
    "one label": Kind("binary", source="table"),
    "an ensemble": Kind(members=2, part="val"),
    "an ensemble on train": Kind(members=2, part="train"),
    "folds": Kind("multiclass", part="val", settings={"data": {"split": {"folds": 3, "fold": 1}}}),
    "official lists": Kind(source="nih", settings=OFFICIAL),
    "no test part": Kind(part="val", settings={"data": {"split": {"test": 0}}}),
    "the last epoch": Kind(part="val", settings={"train": {"select": "last"}}),
    "the last epoch at a rule": Kind(part="val", settings={"train": {"select": "last"}}, rule={"recall": 0.8}),
    "the last epoch of a plateau": Kind(
        part="val", settings={"train": {"select": "last"}, "optim": {"schedule": "plateau"}}
    ),
    "an undefined monitor": Kind(part="val", best=None, info={"ended": "patience", "epochs": 2}),
    "a trial": Kind("binary", part="val", info={"sweep": {"name": "s"}}, settings={"augment": {"probability": 0}}),
    "a given threshold": Kind("binary", rule=0.3, source="dicom_folder"),
    "youden": Kind("binary", rule="youden"),
    "a rule without a margin": Kind(rule={"recall": 0.8}, assurance=None),
    "a rule for classes": Kind("multiclass", rule={"recall": 0.8}, source="image_folder"),
    "external data": Kind(external="nih"),
    "external data at a rule": Kind("binary", external="phantom", rule={"specificity": 0.8}),
    "external data without val": Kind(external="vindr", val_rows=0, settings={"data": {"split": {"val": 0}}}),
    "studies": Kind(by="study"),
    "studies of classes": Kind("multiclass", by="study", source="phantom"),
    "phantom": Kind("binary", source="phantom", patients=False),
    "a plugin's source": Kind("binary", source="mine", features=False),
    "a label with one positive": Kind(rare=1, shortcut=True, border=True),
    "a label without positives": Kind(rare=0),
    "few negatives": Kind("multilabel", rare=155),
    "a tiny test part": Kind("binary", rows=12),
    "a tiny val part": Kind(part="val", val_rows=12),
    "nothing to select": Kind(part="train", val_rows=0, settings={"data": {"split": {"val": 0, "test": 0}}}),
    "weights": Kind(settings={"loss": {"pos_weight_power": 1}, "data": {"oversample_min_count": 20}}),
    "unknown patients": Kind(patients=False),
    "intervals by image": Kind(settings={"report": {"interval_by": "image"}}, patients=True),
    "no intervals": Kind(bootstrap=0),
    "no baselines": Kind("binary", baselines=False),
    "perfect": Kind("multiclass", skill=60.0),
    "a strong border": Kind(border=True),
    "a shortcut": Kind(shortcut=True),
    "many train rows": Kind("binary", train_rows=20_001),
    "the untrained model": Kind("multiclass", epoch=0, part="train"),
    "another epoch": Kind("binary", epoch=4, part="val", untrained=True),
    "the selected epoch": Kind("binary", epoch=3),
    "stopped by patience": Kind(part="val", info={"ended": "patience", "epochs": 2}),
    "not augmented": Kind(settings={"augment": {"probability": 0}}, blank_is_unknown=True),
}


def values(report: Report) -> dict[tuple[str, str], dict[str, Any]]:
    return {(v["metric"], v["label"]): v for v in report.results["values"]}


def counts(report: Report, label: str) -> tuple[int, int]:
    truth = report.frame[f"true/{label}"]
    return int((truth == 1).sum()), int((truth == 0).sum())


def is_enough(report: Report, label: str) -> bool:
    return min(counts(report, label)) >= 10


def by_rule(kind: Kind) -> bool:
    return not isinstance(kind.rule, float)


def selected(kind: Kind, what: str) -> bool:
    """Whether val selected `what`."""
    train, optim = kind.settings.get("train", {}), kind.settings.get("optim", {})
    found = {
        "the epoch": kind.epoch is None
        and train.get("select") != "last"
        and (kind.best is not None or kind.members > 0),
        "the thresholds": by_rule(kind),
        "the learning rate": optim.get("schedule") == "plateau",
        "the end": kind.info.get("ended") == "patience",
        "the hyperparameters": "sweep" in kind.info,
    }
    return any(found.values()) if what == "anything" else found[what]


def on(part: str) -> Callable[[Report], bool]:
    return lambda report: report.kind.part == part and not report.kind.external


def on_val_selected(what: str) -> Callable[[Report], bool]:
    return lambda report: on("val")(report) and selected(report.kind, what)


def has_intervals(report: Report) -> bool:
    return report.kind.bootstrap > 0


def unit(report: Report) -> str:
    return "patient" if report.kind.patients else "image"


def is_left_out(report: Report) -> bool:
    """Whether a resample has no positive or no negative of a label that has both: whole patients are drawn, as often as there are."""
    if not has_intervals(report) or len(report.kind.labels) == 1:
        return False
    truth = report.frame[[f"true/{k}" for k in report.kind.labels]].to_numpy()
    truth = truth[:, [min(counts(report, k)) > 0 for k in report.kind.labels]]
    unit_N = pd.factorize(report.frame["patient"] if report.kind.patients else report.frame["row"])[0]
    rng = np.random.default_rng(0)
    for _ in range(report.kind.bootstrap):
        drawn = truth[np.isin(unit_N, rng.integers(0, unit_N.max() + 1, unit_N.max() + 1))]
        if not ((drawn == 1).any(axis=0) & (drawn == 0).any(axis=0)).all():
            return True
    return False


def is_calibrated(report: Report) -> bool:
    """Whether val has enough rows for some calibrator: tenfold the outputs for a temperature, 20 positives for Platt."""
    return report.kind.val_rows >= 100


def source(report: Report) -> str:
    return report.kind.external or report.kind.source


def two_groups(report: Report) -> list[bool]:
    """For each feature whether two of its groups have ten positives of one label."""
    found = []
    for feature in ("sex", "view"):
        if feature not in report.records or report.records[feature].nunique() < 2:
            continue
        groups = report.records[feature].to_numpy()
        found.append(
            any(
                sum(((report.frame[f"true/{k}"].to_numpy() == 1) & (groups == g)).sum() >= 10 for g in set(groups)) >= 2
                for k in report.kind.labels
            )
        )
    return found


def separates(report: Report) -> bool:
    """Whether the probabilities separate positives and negatives of every label, so that every resample has an AUROC of 1."""
    pairs = [(report.frame[f"true/{k}"] == 1, report.frame[f"prob/{k}"]) for k in report.kind.labels]
    return all(prob[true].min() > prob[~true].max() for true, prob in pairs)


def has_groups(report: Report) -> bool:
    return "sex" in report.records


def split(kind: Kind) -> dict[str, Any]:
    return {"test": 0.2, "val": 0.1, **kind.settings.get("data", {}).get("split", {})}


SENTENCES: dict[str, Callable[[Report], bool]] = {
    # What the run is.
    "labels, several per image": lambda r: r.kind.task == "multilabel",
    "one label, Edema or not": lambda r: r.kind.task == "binary",
    "classes, one per image": lambda r: r.kind.task == "multiclass",
    # What was evaluated, and what val was used for.
    "Evaluated on the test part": on("test"),
    "which this run used neither to fit nor to select the model": on("test"),
    "The test part has been evaluated 2 times.": on("test"),
    "Evaluated on the train part": on("train"),
    "those that the model was fitted to": lambda r: on("train")(r) and not r.kind.members and r.kind.epoch != 0,
    "those that its members were fitted to, not each of them to all": lambda r: on("train")(r) and r.kind.members > 0,
    "before the model was fitted to them": lambda r: on("train")(r) and r.kind.epoch == 0,
    "Evaluated on val": on("val"),
    "so these metrics are optimistic; they are not a test": on_val_selected("anything"),
    "selected nothing in this run": lambda r: on("val")(r) and not selected(r.kind, "anything"),
    "The last epoch was selected, so val": lambda r: (
        on("val")(r) and not selected(r.kind, "anything") and r.kind.epoch is None
    ),
    "Evaluated on external data: the store other of": lambda r: r.kind.external is not None,
    "Its thresholds": lambda r: r.kind.external is not None and by_rule(r.kind),
    "from the run's own val": lambda r: r.kind.external is not None and (by_rule(r.kind) or is_calibrated(r)),
    "The model is the untrained one (epoch 0).": lambda r: r.kind.epoch == 0,
    "which is the selected one": lambda r: r.kind.epoch == 3,
    "which is not the selected one": lambda r: r.kind.epoch == 4,
    # Intervals.
    "Ranges are 95% intervals": has_intervals,
    "of a patient resampled together": lambda r: has_intervals(r) and unit(r) == "patient",
    "No intervals: none were asked for.": lambda r: not has_intervals(r),
    "so intervals treat images as independent and may be too narrow": lambda r: (
        has_intervals(r) and not r.kind.patients
    ),
    "no interval: every resample gives the same value": lambda r: has_intervals(r) and separates(r),
    "A proportion of exactly 0 or 1": has_intervals,
    "their means are over the other labels": is_left_out,
    "so their differences are paired": lambda r: has_intervals(r) and bool(r.results["rivals"]),
    "as a cluster and, for calibrators": lambda r: unit(r) == "patient",
    # Few rows.
    "Fewer than 10 positives": lambda r: any(counts(r, k)[0] < 10 for k in r.kind.labels),
    "Fewer than 10 negatives": lambda r: any(counts(r, k)[1] < 10 for k in r.kind.labels),
    "Undefined, and left out of the means": lambda r: bool(r.results["undefined"]),
    "The image border alone, with hardly any lung in it": lambda r: r.kind.border,
    "Labels predicted without the image": lambda r: r.kind.shortcut,
    "View alone, without the image, predicts Edema": lambda r: r.kind.shortcut,
    "predicts Mass with": lambda r: False,
    "No gap is reported: no label has 10 positives in two groups.": lambda r: has_groups(r) and not all(two_groups(r)),
    "some gap is expected by chance": lambda r: any(two_groups(r)),
    "so groups may average different labels": lambda r: has_groups(r) and len(r.kind.labels) > 1,
    "have no sex, age, view or source with two known values": lambda r: not has_groups(r),
    # Thresholds.
    "Positive is a probability at or above": lambda r: r.kind.task != "multiclass",
    "The decision is the class with the largest probability": lambda r: r.kind.task == "multiclass",
    "Thresholds were given: 0.3": lambda r: r.kind.rule == 0.3,
    "Thresholds were given": lambda r: not by_rule(r.kind) and r.kind.task != "multiclass",
    "Thresholds were chosen on val by this rule": lambda r: by_rule(r.kind),
    "They include a margin": lambda r: by_rule(r.kind) and r.kind.rule != "youden" and r.kind.assurance is not None,
    "They were chosen and evaluated on the same rows": lambda r: on("val")(r) and by_rule(r.kind),
    "thresholds are chosen on val with a margin for its size": lambda r: (
        r.kind.val_rows > 0 and r.kind.assurance is not None
    ),
    "thresholds are chosen on val.": lambda r: r.kind.val_rows > 0 and r.kind.assurance is None,
    "what they give on the same rows, which is optimistic": lambda r: on("val")(r),
    "*: val is too small": lambda r: any(not row["val"]["met"] for row in r.results["at_recall"]),
    "A threshold chosen here is chosen on": lambda r: r.kind.task != "multiclass",
    "Each class against the rest": lambda r: r.kind.task == "multiclass" and (r.kind.val_rows > 0),
    # Baselines.
    "Logistic regressions fitted on the same train images": lambda r: (
        bool(r.results["rivals"]) and r.kind.train_rows <= 20_000
    ),
    "Logistic regressions fitted on 20,000 of the train images": lambda r: (
        bool(r.results["rivals"]) and r.kind.train_rows > 20_000
    ),
    "evaluated on the same images": lambda r: bool(r.results["rivals"]) and r.kind.by == "image",
    "evaluated on the same studies": lambda r: bool(r.results["rivals"]) and r.kind.by == "study",
    "The untrained model shows what training added": lambda r: r.kind.untrained,
    "Baselines decide at 0.5": lambda r: bool(r.results["rivals"]) and by_rule(r.kind) and r.kind.task != "multiclass",
    # Calibration.
    "Training weighted or repeated positives": lambda r: "loss" in r.kind.settings,
    "The calibrators were fitted on these same rows": lambda r: on("val")(r) and is_calibrated(r),
    # The training.
    "on augmented images": lambda r: not r.kind.members and "augment" not in r.kind.settings,
    "Epoch 0 is the model before training": lambda r: not r.kind.members,
    "official test list": lambda r: split(r.kind)["test"] == "official",
    "official val list": lambda r: split(r.kind)["val"] == "official",
    "fold 2 of 3 is val": lambda r: "folds" in split(r.kind),
    "all rows are train": lambda r: split(r.kind)["test"] == split(r.kind)["val"] == 0,
    "by patient, seed 0": lambda r: (
        r.kind.patients and not {split(r.kind)["test"], split(r.kind)["val"]} <= {0, "official"}
    ),
    "by image, since no patient is known": lambda r: not r.kind.patients,
    "2 of 4 epochs (ended by train.patience)": lambda r: r.kind.info.get("ended") == "patience",
    "4 epochs, batch": lambda r: "epochs" not in r.kind.info,
    "each member has its own": lambda r: r.kind.members > 0,
    "of the first ensemble member": lambda r: r.kind.members > 0,
    "Samples per epoch": lambda r: not r.kind.members,
    "because val/auroc/mean is undefined in every epoch": lambda r: r.kind.best is None and r.kind.task == "multilabel",
    "Uncertain in training": lambda r: r.kind.task == "multilabel",
    "Not mentioned masked as unknown": lambda r: r.kind.task == "multilabel" and r.kind.blank_is_unknown,
    "Not mentioned counted as negative": lambda r: r.kind.task == "multilabel" and not r.kind.blank_is_unknown,
    # The model card.
    "extracted from radiology reports": lambda r: source(r) in ("chexpert", "nih"),
    "the class of the folder that it was in": lambda r: source(r) in ("image_folder", "covid_radiography"),
    "come from a table that the user gave": lambda r: source(r) in ("table", "dicom_folder"),
    "Radiologists read the images": lambda r: source(r) == "vindr",
    "The images are drawn, so the truth is known": lambda r: source(r) == "phantom",
    "The labels of the dataset. Some may be wrong.": lambda r: source(r) == "mine",
    "It says nothing about radiographs": lambda r: source(r) == "phantom",
    "these hospitals, machines and patients": lambda r: source(r) != "phantom",
    "share patients is not known": lambda r: not r.kind.patients and source(r) != "phantom",
    # Rows that are studies.
    "Studies by true class": lambda r: r.kind.by == "study" and r.kind.task != "multilabel",
    "Images by true class": lambda r: r.kind.by == "image" and r.kind.task != "multilabel",
    "alarms are per 100 images": lambda r: r.kind.by == "image" and r.kind.val_rows > 0,
    "alarms are per 100 studies": lambda r: r.kind.by == "study" and r.kind.val_rows > 0,
    "Exact match: share of images": lambda r: r.kind.by == "image" and r.kind.task == "multilabel",
    "Exact match: share of studies": lambda r: r.kind.by == "study" and r.kind.task == "multilabel",
}


@pytest.mark.parametrize("name", KINDS)
def test_each_sentence_stands_if_and_only_if_it_is_true(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_drawing(monkeypatch)
    report = write(KINDS[name], tmp_path)
    wrong = {
        sentence: "missing" if holds(report) else "false"
        for sentence, holds in SENTENCES.items()
        if (sentence in report.text) != holds(report)
    }
    assert not wrong, report.text
    if on("val")(report) and "Val selected" in report.text:
        about = report.text.partition("Val selected")[2].partition(", so these")[0]
        for what in CHOICES:
            assert (what in about) == selected(report.kind, what), about


def test_every_sentence_is_tested_where_it_holds_and_where_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_drawing(monkeypatch)
    reports = [write(kind, tmp_path / str(i)) for i, kind in enumerate(KINDS.values())]
    never = {sentence for sentence, holds in SENTENCES.items() if not any(holds(r) for r in reports)}
    assert never == {"predicts Mass with"}  # it would rest on one positive
    assert not {sentence for sentence, holds in SENTENCES.items() if all(holds(r) for r in reports)}


@pytest.mark.parametrize(
    "skill,text", [(3.0, "uses more of the image"), (0.0, "chance alone may explain"), (-2.0, "it is worse than")]
)
def test_the_verdict_follows_the_interval(skill: float, text: str) -> None:
    table = predictions(CLASSES, "multiclass", 200, skill)
    assert text in statements.verdict(evaluation_of(table, CLASSES, "multiclass"))[0]


def test_a_border_that_predicts_the_label_is_reported() -> None:
    table = predictions(CLASSES, "multiclass", 200, 3.0)
    truth = table[[f"true/{k}" for k in CLASSES]].to_numpy()
    even = np.full(truth.shape, 1 / 3)
    assert len(statements.verdict(evaluation_of(table, CLASSES, "multiclass", baselines={"border": even}))) == 1
    assert (
        "hardly any lung"
        in statements.verdict(
            evaluation_of(table, CLASSES, "multiclass", baselines={"border": 0.8 * truth + 0.2 * even})
        )[1]
    )


def test_every_policy_for_uncertain_has_a_text() -> None:
    assert set(statements.POLICIES) == set(get_args(cfg.Uncertain))


def test_every_source_says_where_its_labels_come_from() -> None:
    built_in = {entry.name for entry in SOURCES if entry.make.__module__.startswith("cxr_ray.")}
    assert set(statements.ORIGINS) == built_in


def comparison(**gaps: tuple[float, float | None, float | None]) -> dict[str, Any]:
    """An evaluation of classes whose macro F1 differs from that of each baseline by (value, low, high)."""
    table = predictions(CLASSES, "multiclass", 60, 1.0)
    out = evaluation_of(table, CLASSES, "multiclass", baselines={}, bootstrap=0)
    out["differences"] = {
        name: [{"metric": "f1", "label": "mean", "value": value, **({} if low is None else {"low": low, "high": high})}]
        for name, (value, low, high) in gaps.items()
    }
    return out


@pytest.mark.parametrize(
    ("gaps", "text"),
    [
        (
            {"thumbnail": (0.3, 0.1, 0.5), "border": (0.2, 0.1, 0.3), "untrained": (0.1, -0.1, 0.2)},
            "0.200 above that of the strongest trivial baseline (the thumbnail's border; difference 0.10 to 0.30): the model uses "
            "more of the image than a thumbnail shows.",
        ),
        (
            {"thumbnail": (0.3, -0.1, 0.5), "border": (0.2, 0.1, 0.3)},
            "(the thumbnail's border; difference 0.10 to 0.30), which chance does not explain; for the 16 × 16 thumbnail it may.",
        ),
        ({"border": (0.2, 0.1, 0.3)}, "difference 0.10 to 0.30), which chance does not explain."),
        ({"border": (-0.2, -0.3, -0.1)}, "it is worse than a regression on 60 gray values. Do not use it."),
        ({"thumbnail": (-0.2, -0.3, -0.1)}, "it is worse than a regression on 256 gray values. Do not use it."),
        (
            {"thumbnail": (0.0, 0.0, 0.0)},
            "Its macro F1 equals that of the strongest trivial baseline (the 16 × 16 thumbnail): it is not shown",
        ),
        ({"thumbnail": (0.1, None, None)}, "no interval was computed, so chance is not excluded."),
    ],
)
def test_the_verdict_says_no_more_than_the_intervals(gaps: dict[str, Any], text: str) -> None:
    (line,) = statements.verdict(comparison(**gaps))
    assert text in line


def test_without_trivial_baselines_there_is_no_verdict() -> None:
    assert statements.verdict(comparison(untrained=(0.1, 0.05, 0.2))) == statements.verdict(comparison()) == []
