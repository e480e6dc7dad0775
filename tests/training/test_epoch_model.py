"""The model of a run at an epoch: the untrained one, and those of kept checkpoints."""

from pathlib import Path

import pytest
import torch

from cxr_ray.data import plan as plans
from cxr_ray.errors import UserError
from cxr_ray.models import serialization
from cxr_ray.training import checkpoint, epoch_model, export
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, fit


@pytest.mark.parametrize("ema", [0.0, 0.5])
@pytest.mark.parametrize("weights", ["none", "a run"])
def test_the_untrained_model_is_built_as_the_training_started(tmp_path: Path, weights: str, ema: float) -> None:
    store = fake_store()
    if weights == "a run":
        weights = str(fit(config(tmp_path, name="first", train={"epochs": 1}), store).path)
    settings = {"model": {"weights": weights, "dropout": 0.1}, "optim": {"ema": ema}, "seed": 3}
    start = fit(config(tmp_path, name="start", train={"epochs": 0}, **settings), store)
    run = fit(config(tmp_path, name="trained", train={"epochs": 2}, **settings), store)
    plan = plans.build(store, run.config.data, seed=run.config.seed)
    before = torch.random.get_rng_state()
    built = epoch_model.load(run, 0, plan, store).model.state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    saved = serialization.read(start.weights).model.state_dict()
    assert built.keys() == saved.keys() and all(torch.equal(built[k], saved[k]) for k in saved)
    trained = serialization.read(run.weights).model.state_dict()
    assert not all(torch.equal(built[k], trained[k]) for k in saved)


def test_the_model_of_a_kept_checkpoint_is_that_of_its_epoch(tmp_path: Path) -> None:
    store = fake_store()
    settings = config(tmp_path, train={"epochs": 3, "select": "last", "monitor": "val/loss"}, optim={"ema": 0.5})
    run = fit(settings, store)
    plan = plans.build(store, run.config.data, seed=run.config.seed)
    folders = {checkpoint.read_state(path)["epoch"]: path for path in (run.path / "checkpoints").glob("step-*")}
    assert 3 in folders and epoch_model.available(run) == sorted({0, *folders})
    for epoch, path in folders.items():
        average = export.split_ema(checkpoint.load(path).model)[1]
        found = epoch_model.load(run, epoch, plan, store).model.state_dict()
        assert all(torch.equal(found[k], average[k]) for k in average)
    for path in folders.values():  # as in the winner of a sweep, which has no checkpoints
        (path / "manifest.json").unlink()
    assert epoch_model.available(run) == [0, 3]
    with pytest.raises(
        UserError, match=r"the model of epoch 2 of run is not kept: .* there are 0, 3 \(0 is the untrained"
    ):
        epoch_model.check(run, 2)
    found = epoch_model.load(run, 3, plan, store).model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in serialization.read(run.weights).model.state_dict().items())
