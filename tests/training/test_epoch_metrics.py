"""Metrics of an epoch: smooth targets, undefined labels, the confusion matrix, names and log lines."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ray import config as cfg
from cxr_ray import losses
from cxr_ray.data import plan as plans
from cxr_ray.metrics import Value
from cxr_ray.runtime.context import LocalContext
from cxr_ray.training import epoch_metrics
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, fit


def test_smooth_targets_change_the_loss_but_not_the_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = fake_store(120, uncertain=0.3)
    report = {"keep_predictions": True, "labels": "mine", "thresholds": {"mine": 0.0}}
    hyperparameters = {"report": report, "optim": {"lr": 1e-9}, "train": {"epochs": 1}}
    values = {}
    for policy in ("smooth", "ones"):
        data = {"uncertain": policy, "groups": {"mine": ["Edema", "Mass"]}}
        run = fit(config(tmp_path / policy, data=data, **hyperparameters), store, LocalContext(quiet=False))
        table = run.metrics.query("part == 'train'").set_index(["metric", "label"])["value"].astype(float)
        values[policy] = table[~table.index.duplicated()]
        log = capsys.readouterr().out
        assert "Edema " in log and "Mass " in log and "Effusion " not in log  # only the group
        assert values[policy]["recall", "Edema"] == values[policy]["recall", "Mass"] == 1  # its threshold, for both
    assert values["smooth"]["loss", ""] != pytest.approx(values["ones"]["loss", ""], abs=1e-3)
    # With a learning rate of nearly 0 both models are the same.
    for name in [("positives", "Edema"), ("auroc", "mean"), ("recall", "Effusion")]:
        assert values["smooth"][name] == pytest.approx(values["ones"][name], abs=1e-6)


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_classes_and_one_label(tmp_path: Path, task: str) -> None:
    labels = ("COVID", "Normal", "Viral Pneumonia") if task == "multiclass" else ("COVID",)
    store = fake_store(150, labels, task=task)
    run = fit(config(tmp_path, train={"epochs": 6}), store)
    assert run.config.train.monitor == ("val/accuracy" if task == "multiclass" else "val/auroc/mean")
    last = run.metrics.query("epoch == 6 and part == 'val'").set_index(["metric", "label"])["value"]
    assert last[("accuracy", "")] > 0.9
    table = run.predictions("val")
    prob = table[[f"prob/{k}" for k in labels]].to_numpy()
    if task == "multiclass":  # the epoch's confusion matrix, against a count row by row
        best = run.metrics.query(f"epoch == {run.info['best']['epoch']} and part == 'val' and metric == 'confusion'")
        predicted = [labels[i] for i in prob.argmax(axis=1)]
        true = [labels[i] for i in table[[f"true/{k}" for k in labels]].to_numpy().argmax(axis=1)]
        pairs = [f"{a} > {b}" for a, b in zip(true, predicted, strict=True)]
        assert best.set_index("label")["value"].to_dict() == {
            f"{a} > {b}": pairs.count(f"{a} > {b}") for a in labels for b in labels
        }
    assert np.allclose(prob.sum(axis=1), 1, atol=1e-5) if task == "multiclass" else prob.shape[1] == 1


def test_a_label_without_positives_in_val_is_absent_and_not_part_of_the_mean(tmp_path: Path) -> None:
    store = fake_store(100)
    plan = plans.build(store, config(tmp_path).data, seed=0)
    in_val = store.index["row"].isin(plan.rows["val"])
    store.index["split"] = np.where(in_val, "val", "train")
    store.index.loc[in_val, "Mass"] = 0.0
    run = fit(config(tmp_path, data={"split": {"val": "official"}}, train={"epochs": 1}), store)
    auroc = run.metrics.query("epoch == 1 and part == 'val' and metric == 'auroc'").set_index("label")["value"]
    assert "Mass" not in auroc.index
    assert auroc["mean"] == pytest.approx((auroc["Edema"] + auroc["Effusion"]) / 2)


def test_names_are_those_of_curves_without_the_confusion_matrix() -> None:
    parts = {
        "val": [Value("auroc", "Edema", 0.8, 3, 9), Value("loss", "", 0.5, 3, 9), Value("confusion", "a > b", 2.0, 3, 9)],
        "train": [Value("auroc", "mean", 0.7, 3, 9)],
    }  # fmt: skip
    assert epoch_metrics.by_name(parts) == {"val/auroc/Edema": 0.8, "val/loss": 0.5, "train/auroc/mean": 0.7}


def test_log_lines_show_val_and_the_chosen_labels(tmp_path: Path) -> None:
    settings = config(tmp_path, report={"labels": ["Edema", "Mass"]})
    plan = plans.build(fake_store(60), settings.data, seed=0)

    def values(base: float) -> list[Value]:
        of_labels = [
            Value(metric, label, base + i / 10, 3, 9)
            for i, metric in enumerate(("recall", "auroc", "precision"))
            for label in ("mean", "Edema", "Mass")
        ]
        return [Value("loss", "", base, 3, 9), *of_labels]

    parts = {"train": values(0.5), "val": [v for v in values(0.25) if (v.metric, v.label) != ("auroc", "Mass")]}
    lines = epoch_metrics.epoch_lines(settings, plan, 1, parts, 1234.5, 6.78)
    assert lines == [
        "epoch 1/2  train loss 0.500  val loss 0.250  recall 0.250  auroc 0.350  precision 0.450  exact_match   --  "
        "1,234 images/s  6.8 s",
        "  val recall/auroc/precision: Edema 0.250/0.350/0.450, Mass 0.250/  --/0.450",
    ]
    untrained = epoch_metrics.epoch_lines(settings, plan, 0, parts, 0.0, 6.78)
    assert len(untrained) == 1 and untrained[0].startswith("epoch 0/2  ") and "images/s" not in untrained[0]


def a_plan(tmp_path: Path, labels: tuple[str, ...], task: str = "multilabel") -> plans.Plan:
    return plans.build(fake_store(40, labels, task=task), config(tmp_path).data, seed=0)


def random_outputs(rows: int, labels: int) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(rows)
    truth = rng.choice([0.0, 1.0, np.nan], size=(rows, labels), p=[0.5, 0.3, 0.2]).astype(np.float32)
    return torch.tensor(rng.normal(0, 2, (rows, labels)), dtype=torch.float32), truth


@pytest.mark.parametrize("labels", [("Edema", "Mass", "Effusion"), ("Edema",)])
def test_the_loss_of_every_label_is_the_mean_of_its_known_cells(tmp_path: Path, labels: tuple[str, ...]) -> None:
    """Of one label there is only the loss of all."""
    task = "multilabel" if len(labels) > 1 else "binary"
    logits, truth = random_outputs(30, len(labels))
    loss = losses.build(cfg.Loss(), task=task)
    found = epoch_metrics.epoch_values(logits, truth, loss, a_plan(tmp_path, labels, task), np.full(len(labels), 0.5))
    columns_of = {"": list(range(len(labels))), **{label: [j] for j, label in enumerate(labels)}}
    cells = {
        name: [
            math.log(1 + math.exp(-z if y == 1 else z))
            for z, y in zip(logits[:, columns].flatten().tolist(), truth[:, columns].flatten().tolist(), strict=True)
            if not math.isnan(y)
        ]
        for name, columns in columns_of.items()
    }
    expected = {
        name: (
            pytest.approx(sum(cells[name]) / len(cells[name]), rel=1e-5),
            int((truth[:, columns] == 1).sum()),
            len(truth) if name == "" else len(cells[name]),
        )
        for name, columns in columns_of.items()
        if name == "" or len(labels) > 1
    }
    assert {v.label: (v.value, v.positives, v.rows) for v in found if v.metric == "loss"} == expected
    assert any(v.metric == "auroc" for v in found) and not any(v.metric == "confusion" for v in found)


def test_no_rows_and_unknown_labels_have_no_loss(tmp_path: Path) -> None:
    plan, loss = a_plan(tmp_path, ("Edema", "Mass")), losses.build(cfg.Loss(), task="multilabel")
    logits, truth = random_outputs(8, 2)
    thresholds_L = np.full(2, 0.5)
    assert epoch_metrics.epoch_values(logits[:0], truth[:0], loss, plan, thresholds_L) == []
    truth[:, 1] = np.nan
    found = epoch_metrics.epoch_values(logits, truth, loss, plan, thresholds_L)
    assert {v.label for v in found if v.metric == "loss"} == {"", "Edema"}
    truth[:] = np.nan
    found = epoch_metrics.epoch_values(logits, truth, loss, plan, thresholds_L)
    assert not [v for v in found if v.metric == "loss"]
    classes = a_plan(tmp_path, ("a", "b"), "multiclass")
    of_classes = losses.build(cfg.Loss(), task="multiclass")
    assert epoch_metrics.epoch_values(logits[:0], truth[:0], of_classes, classes, thresholds_L) == []


def test_a_rule_chooses_thresholds_on_the_rows_and_numbers_are_used(tmp_path: Path) -> None:
    plan = replace(a_plan(tmp_path, ("Edema", "Mass")), groups={"both": ("Edema", "Mass")})
    logits, truth = random_outputs(60, 2)
    assert epoch_metrics.thresholds({"both": 0.2, "Mass": 0.7}, logits, truth, plan).tolist() == [0.2, 0.7]
    chosen = epoch_metrics.thresholds("f1", logits, truth, plan)
    prob = torch.sigmoid(logits).numpy()
    for j in range(2):
        known = ~np.isnan(truth[:, j])
        true, score = truth[known, j] == 1, prob[known, j]
        f1 = {at: 2 * (true & (score >= at)).sum() / (true.sum() + (score >= at).sum()) for at in score.tolist()}
        assert chosen[j] == pytest.approx(min(at for at, value in f1.items() if value == max(f1.values())))


def label_values(part: str, labels: list[str], overall: str) -> dict[str, list[Value]]:
    metrics = ("recall", "auroc", "precision")
    of_labels = [Value(metric, label, 0.5, 3, 9) for metric in metrics for label in ["mean", *labels]]
    return {part: [Value("loss", "", 0.25, 3, 9), Value(overall, "", 0.75, 3, 9), *of_labels]}


def test_log_lines_show_train_without_val_and_the_accuracy_of_classes(tmp_path: Path) -> None:
    settings = config(tmp_path, report={"labels": "all"})
    plan = a_plan(tmp_path, ("a", "b"))
    assert epoch_metrics.epoch_lines(settings, plan, 2, label_values("train", ["a", "b"], "accuracy"), 10.0, 2.0) == [
        "epoch 2/2  train loss 0.250  recall 0.500  auroc 0.500  precision 0.500  accuracy 0.750  10 images/s  2.0 s",
        "  train recall/auroc/precision: a 0.500/0.500/0.500, b 0.500/0.500/0.500",
    ]


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (2, 2), (14, 2), (15, 1)])
def test_log_lines_list_from_2_to_14_labels(tmp_path: Path, count: int, lines: int) -> None:
    labels = [f"l{i}" for i in range(count)]
    plan = replace(a_plan(tmp_path, ("a", "b")), labels=tuple(labels))
    settings = config(tmp_path, report={"labels": "all"})
    shown = epoch_metrics.epoch_lines(settings, plan, 1, label_values("val", labels, "exact_match"), 0.0, 2.0)
    assert len(shown) == lines and "exact_match 0.750" in shown[0] and "train loss" not in shown[0]
