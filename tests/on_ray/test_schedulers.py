"""Ray Tune's schedulers as a sweep uses them, without a cluster: they are told what trials report, and asked what to do."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.on_ray import schedulers
from cxr_ray.on_ray.trial import OBJECTIVE, UNDEFINED, objective_of
from cxr_ray.tuning import space
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FINISHED, STOPPED
from tests.fakes.sweep import CHEXPERT, make_sweep

HYPERPARAMETERS = {
    "optim.lr": {"loguniform": [1e-6, 1e-3]},
    "loss.pos_weight_power": {"uniform": [0.0, 1.0]},
    "data.oversample_min_count": {"choice": [0, 50, 150]},
}


def searched(sweep: Sweep) -> space.Space:
    return space.parse(sweep.config.tune, sweep.config, CHEXPERT)


def population(sweep: Sweep) -> schedulers.Population:
    made = schedulers.build(sweep, searched(sweep))
    assert isinstance(made, schedulers.Population)
    return made


def given(sweep: Sweep, name: str) -> SimpleNamespace:
    trial = sweep.trial(name)
    hyperparameters = schedulers.starting_hyperparameters(sweep, trial, searched(sweep))
    return SimpleNamespace(config={"given": {"sweep": str(sweep.path), "trial": name, "knobs": hyperparameters}})


def test_a_trial_that_takes_over_keeps_its_own_folder_and_the_space_its_ends(tmp_path):
    sweep = make_sweep(tmp_path / "pbt", trials=4, scheduler="pbt", space=HYPERPARAMETERS, failed=())
    pbt = population(sweep)
    loser, donor = given(sweep, "0001"), given(sweep, "0002")
    donor.config["given"]["knobs"] |= {"loss.pos_weight_power": 0.95, "optim.lr": 9.9e-4}
    seen = set()
    for _ in range(200):
        made = pbt._get_new_config(loser, donor)[0]["given"]
        assert (made["sweep"], made["trial"], made["donor"]) == (str(sweep.path), "0001", "0002")
        assert 0.0 <= made["knobs"]["loss.pos_weight_power"] <= 1.0 and 1e-6 <= made["knobs"]["optim.lr"] <= 1e-3
        assert made["knobs"]["data.oversample_min_count"] in (0, 50, 150)
        space.apply(sweep.config, made["knobs"], CHEXPERT, where="a trial")  # the config takes all of them
        seen.add(made["knobs"]["loss.pos_weight_power"])
    assert 1.0 in seen and len(seen) > 3  # 0.95 x 1.2 would lie beyond the end


def test_the_config_as_written_can_be_handed_over_too(tmp_path):
    sweep = make_sweep(tmp_path / "pbt", trials=4, scheduler="pbt", space=HYPERPARAMETERS, failed=())
    base = given(sweep, "0000")
    assert base.config["given"]["knobs"] == {
        "optim.lr": sweep.config.optim.lr, "loss.pos_weight_power": sweep.config.loss.pos_weight_power,
        "data.oversample_min_count": sweep.config.data.oversample_min_count,
    }  # fmt: skip
    assert set(population(sweep)._get_new_config(given(sweep, "0001"), base)[0]["given"]["knobs"]) == set(
        HYPERPARAMETERS
    )
    none = make_sweep(tmp_path / "none", trials=4, scheduler="pbt", space={"optim.clip_norm": {"uniform": [0.5, 2]}})
    with pytest.raises(UserError, match=r"changes optim\.clip_norm step by step, and the config as written has none"):
        population(none)


def test_nothing_is_taken_over_by_a_trial_that_has_nothing_left_to_train(tmp_path):
    sweep = make_sweep(tmp_path / "pbt", trials=4, scheduler="pbt", space=HYPERPARAMETERS, failed=())
    last = sweep.config.train.epochs
    # Without its state of the trial, Ray's own would raise.
    assert population(sweep).on_trial_result(None, SimpleNamespace(), {"epoch": last}) == TrialScheduler.CONTINUE


def test_asha_measures_the_rest_of_a_sweep_against_what_ended_before(tmp_path):
    sweep = make_sweep(tmp_path / "asha", trials=8, epochs=4, reduction=2, failed=())
    assert {t.status for t in sweep.trials} == {FINISHED, STOPPED}
    fresh = make_sweep(tmp_path / "fresh", trials=8, epochs=4, reduction=2, failed=(), waiting=range(8))
    for one, wanted in ((sweep, TrialScheduler.STOP), (fresh, TrialScheduler.CONTINUE)):
        asha = schedulers.build(one, searched(one))
        late = SimpleNamespace(trial_id="late")
        asha.on_trial_add(None, late)
        assert asha.on_trial_result(None, late, {"epoch": 1, OBJECTIVE: 0.5}) == wanted


def test_trials_of_few_rows_have_steps_enough_before_they_are_compared(tmp_path):
    def grace(train_rows: int, **hyperparameters: Any) -> int:
        sweep = make_sweep(
            tmp_path / f"{train_rows}-{len(hyperparameters)}", trials=2, failed=(), **{"epochs": 9, **hyperparameters}
        )
        sweep.update(rows={"train": train_rows, "val": 400, "test": 0})
        return sweep.grace

    batch = cfg.Train().batch_size
    assert grace(131_748) == grace(30 * batch) == grace(29 * batch + 1) == 1
    assert grace(29 * batch) == grace(15 * batch) == 2
    assert grace(batch) == 3  # a third of 9: not all are trained to their end
    assert grace(3, epochs=2) == 1
    assert grace(131_748, grace_epochs=4) == 4


def test_asha_ends_nothing_within_its_grace(tmp_path):
    sweep = make_sweep(tmp_path / "asha", trials=9, epochs=9, failed=(), waiting=range(9))
    sweep.update(rows={"train": 15 * sweep.config.train.batch_size, "val": 400, "test": 0})
    asha = schedulers.build(sweep, searched(sweep))
    trials = [SimpleNamespace(trial_id=str(n)) for n in range(6)]
    for trial in trials:
        asha.on_trial_add(None, trial)
    worse = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    first = [asha.on_trial_result(None, t, {"epoch": 1, OBJECTIVE: v}) for t, v in zip(trials, worse, strict=True)]
    second = [asha.on_trial_result(None, t, {"epoch": 2, OBJECTIVE: v}) for t, v in zip(trials, worse, strict=True)]
    assert first == [TrialScheduler.CONTINUE] * 6 and second == [TrialScheduler.CONTINUE] + [TrialScheduler.STOP] * 5


def test_what_keeps_the_constraint_is_worth_more_to_a_scheduler(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", trials=2, constraint="val/recall/mean >= 0.5")
    objective = objective_of(sweep.config.tune)
    kept, missed = {"val/auroc/mean": 0.7, "val/recall/mean": 0.6}, {"val/auroc/mean": 0.75, "val/recall/mean": 0.3}
    assert objective(kept) == 0.7 and objective(missed) == pytest.approx(0.55)
    assert objective({"val/auroc/mean": 0.7}) == pytest.approx(-0.3)  # an undefined recall is as far off as can be
    assert objective({"val/recall/mean": 0.6}) == UNDEFINED
