"""The model that a run saves: that of the selected epoch, with its predictions and metrics."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ray import metrics
from cxr_ray.models import serialization
from cxr_ray.training import export
from tests.fakes.store import fake_store
from tests.fakes.trainings import assert_val_predictions_are_the_models, config, fit


def test_val_predictions_are_those_of_the_saved_model_and_give_its_metrics(tmp_path: Path) -> None:
    store = fake_store(120, unknown=0.1)
    run = fit(config(tmp_path, train={"epochs": 3}, data={"blank": "ignore"}), store)
    table = run.predictions("val")
    model = serialization.read(run.weights).model
    with torch.inference_mode():
        prob = model(torch.from_numpy(store.images(table["row"]))).sigmoid().numpy()
    np.testing.assert_allclose(table[[f"prob/{k}" for k in store.labels]].to_numpy(), prob, atol=1e-6)
    truth = table[[f"true/{k}" for k in store.labels]].to_numpy()
    recomputed = metrics.compute_metrics(
        truth,
        table[[f"prob/{k}" for k in store.labels]].to_numpy(),
        labels=store.labels,
        task="multilabel",
        thresholds_L=np.full(3, 0.5),
    )
    of_epoch = run.metrics.query(f"epoch == {run.info['best']['epoch']} and part == 'val'")
    logged = of_epoch.set_index(["metric", "label"])["value"]
    for v in recomputed:
        assert logged[(v.metric, v.label)] == pytest.approx(v.value, abs=1e-12)
    assert run.info["best"]["value"] == logged[("auroc", "mean")]


def test_select_last_saves_the_last_epoch(tmp_path: Path) -> None:
    store = fake_store(80)
    train = {"epochs": 3, "select": "last", "monitor": "val/loss", "monitor_mode": "max"}
    run = fit(config(tmp_path, train=train), store)
    assert run.info["kept"]["epoch"] == 3
    assert run.info["best"]["epoch"] == 1  # the worst loss of a trained model: the untrained one is never selected


@pytest.mark.parametrize(("monitor", "mode"), [("val/f1/mean", "max"), ("val/auroc/Edema", "max"), ("val/loss", "max")])
def test_the_epoch_of_the_best_value_is_saved(tmp_path: Path, monitor: str, mode: str) -> None:
    store = fake_store(60)
    train = {"epochs": 4, "batch_size": 16, "monitor": monitor, "monitor_mode": mode}
    run = fit(config(tmp_path, optim={"lr": 1e-3}, train=train), store)
    table = run.metrics.query("epoch > 0")
    is_monitored = (table["part"] + "/" + table["metric"] + "/" + table["label"]).str.rstrip("/") == monitor
    values = table[is_monitored].set_index("epoch")["value"].astype(float)
    assert values.nunique() > 1
    best = int(str(values.idxmax()))  # the first of equals
    assert run.info["best"] == {**run.info["best"], "epoch": best, "value": values[best]}
    assert run.info["kept"]["epoch"] == best
    assert_val_predictions_are_the_models(run, store)


def test_weights_and_their_average_are_split_as_they_were_merged() -> None:
    weights, average = {"a.b": torch.ones(1), "c": torch.ones(2)}, {"a.b": torch.zeros(1), "c": torch.zeros(2)}
    merged = export.merge_ema(weights, average)
    assert set(merged) == {"a.b", "c", "ema.a.b", "ema.c"}
    assert export.split_ema(merged) == (weights, average)
    assert export.split_ema(export.merge_ema(weights, {})) == (weights, {})
