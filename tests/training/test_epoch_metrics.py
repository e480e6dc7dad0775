"""Metrics of an epoch: smooth targets, undefined labels, the confusion matrix, names and log lines."""

from pathlib import Path

import numpy as np
import pytest

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
