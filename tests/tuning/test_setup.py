"""Preparing a sweep: warnings about folds, and the list of trials."""

from pathlib import Path
from typing import Any

import pytest

from cxr_ray import config as cfg
from cxr_ray.tuning import setup, space
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FINISHED, WAITING, Trial
from tests.fakes.sweep import STORE

SMALL = Path(__file__).resolve().parents[1] / "fixtures" / "formats" / "0.1.0" / "stores" / "phantom-8"
"""A store of 44 synthetic patients, which needs no ingest."""


def config(store: Path, output: Path, **tune: Any) -> cfg.Config:
    return cfg.validate({
        "name": "sweep", "output": str(output), "data": {"shards": str(store)}, "model": {"name": "lenet"},
        "train": {"batch_size": 32, "precision": "fp32"}, "tune": {"scheduler": "none", **tune},
    })  # fmt: skip


def planned(made: cfg.Config, *existing: Trial) -> tuple[Sweep, list[Trial]]:
    """The sweep of a config whose trials are planned after an earlier launch with the `existing` ones."""
    store, plan, base, _ = setup.prepare_sweep(made)
    searched = space.parse(made.tune, base, plan.labels)
    prepared = base.model_copy(update={"tune": made.tune})
    sweep = sweeps.create(prepared, store=STORE, about={"labels": list(plan.labels)})
    sweep.write_trials(existing)
    return sweep, setup.plan_trials(sweep, searched, plan, store).trials


def test_a_label_without_a_positive_in_a_fold_is_a_warning(store: Path, tmp_path: Path) -> None:
    """The phantoms of 60 patients are too few for a positive of every label in each of twenty folds."""
    lr = {"optim.lr": {"loguniform": [1e-4, 1e-2]}}
    _, plan, _, warnings = setup.prepare_sweep(config(store, tmp_path, space=lr, folds=20))
    assert warnings and all("has no positive in val of fold" in warning for warning in warnings)
    assert {warning.partition(" has no")[0] for warning in warnings} <= set(plan.labels)
    assert not setup.prepare_sweep(config(store, tmp_path, space=lr, folds=2))[3]


def test_the_base_configuration_is_trial_0_and_not_trained_twice(tmp_path: Path) -> None:
    rate = cfg.Optim().lr
    grid = {"search": "grid", "space": {"optim.lr": {"choice": [rate, 0.01]}}}
    sweep, trials = planned(config(SMALL, tmp_path, **grid))
    assert [(t.name, t.hyperparameters, t.base) for t in trials] == [("0000", {}, True), ("0001", {"optim.lr": 0.01}, False)]  # fmt: skip
    assert sweep.trial_records == trials
    _, trials = planned(config(SMALL, tmp_path / "other", **grid, base=False))
    assert [(t.name, t.hyperparameters["optim.lr"]) for t in trials] == [("0001", rate), ("0002", 0.01)]


def test_a_policy_may_name_a_derived_label(tmp_path: Path) -> None:
    made = config(SMALL, tmp_path, space={"optim.lr": {"choice": [1e-3]}})
    derive = {"derive": {"Any": {"any": ["Edema", "Pleural Effusion"]}}, "uncertain": {"Any": "ones"}}
    made = cfg.validate(cfg.merge(made.model_dump(mode="json"), {"data": derive}))
    _, plan, base, _ = setup.prepare_sweep(made)
    assert plan.labels[-1] == "Any" and isinstance(base.data.uncertain, dict)
    assert base.data.uncertain["Any"] == "ones" and base.data.uncertain["Edema"] == "zeros"


def test_every_fold_of_a_combination_is_a_trial(tmp_path: Path) -> None:
    _, trials = planned(config(SMALL, tmp_path, trials=1, folds=2, space={"seed": {"integer": [1, 9]}}))
    assert [t.name for t in trials] == ["0000-fold-0", "0000-fold-1", "0001-fold-0", "0001-fold-1"]
    assert trials[2].hyperparameters == trials[3].hyperparameters != {} and [t.fold for t in trials] == [0, 1, 0, 1]


@pytest.mark.parametrize(("status", "names"), [(FINISHED, ["0000", "0001", "0007"]), (WAITING, ["0000", "0001"])])
def test_ended_trials_of_a_launch_that_asked_for_more_stay(status: str, names: list[str], tmp_path: Path) -> None:
    made = config(SMALL, tmp_path, trials=1, space={"optim.lr": {"uniform": [0.01, 0.1]}})
    first = Trial("0001", 1, {"optim.lr": 0.05}, status=FINISHED)
    _, trials = planned(made, first, Trial("0007", 7, {"optim.lr": 0.1}, status=status))
    assert [t.name for t in trials] == names and trials[1] == first
