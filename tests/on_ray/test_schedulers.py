"""Ray Tune's schedulers as a sweep uses them, without a cluster: they get reports of trials, and decide."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.on_ray import schedulers
from cxr_ray.on_ray.trial import OBJECTIVE, UNDEFINED, objective_of
from cxr_ray.on_ray.tune_callback import trial_spec
from cxr_ray.tuning import space
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FINISHED, STOPPED
from tests.fakes.sweep import CHEXPERT, make_sweep

SPACE = {
    "optim.lr": {"loguniform": [1e-6, 1e-3]},
    "loss.pos_weight_power": {"uniform": [0.0, 1.0]},
    "data.oversample_min_count": {"choice": [0, 50, 150]},
}


def searched(sweep: Sweep) -> space.Space:
    return space.parse(sweep.config.tune, sweep.config, CHEXPERT)


def pbt_of(sweep: Sweep) -> schedulers.SweepPBT:
    made = schedulers.build(sweep, searched(sweep))
    assert isinstance(made, schedulers.SweepPBT)
    return made


def ray_trial(sweep: Sweep, name: str) -> SimpleNamespace:
    return SimpleNamespace(config={"spec": trial_spec(sweep, sweep.trial(name), searched(sweep))})


def takeover(pbt: schedulers.SweepPBT, trial: SimpleNamespace, donor: SimpleNamespace) -> dict[str, Any]:
    """The spec with which `trial` continues from `donor`, by the hook that Ray calls."""
    spec: dict[str, Any] = pbt._get_new_config(trial, donor)[0]["spec"]
    return spec


def test_a_trial_that_takes_weights_over_keeps_its_folder_and_stays_within_the_space(tmp_path):
    sweep = make_sweep(tmp_path / "pbt", trials=4, scheduler="pbt", space=SPACE, failed=())
    pbt = pbt_of(sweep)
    loser, donor = ray_trial(sweep, "0001"), ray_trial(sweep, "0002")
    donor.config["spec"]["hyperparameters"] |= {"loss.pos_weight_power": 0.95, "optim.lr": 9.9e-4}
    seen = set()
    for _ in range(200):
        made = takeover(pbt, loser, donor)
        params = made["hyperparameters"]
        assert (made["sweep"], made["trial"], made["donor"]) == (str(sweep.path), "0001", "0002")
        assert 0.0 <= params["loss.pos_weight_power"] <= 1.0 and 1e-6 <= params["optim.lr"] <= 1e-3
        assert params["data.oversample_min_count"] in (0, 50, 150)
        space.apply(sweep.config, params, CHEXPERT, where="a trial")  # valid for the config
        seen.add(params["loss.pos_weight_power"])
    assert 1.0 in seen and len(seen) > 3  # 0.95 x 1.2 would exceed the bound


def test_pbt_also_takes_over_from_the_base_configuration(tmp_path):
    sweep = make_sweep(tmp_path / "pbt", trials=4, scheduler="pbt", space=SPACE, failed=())
    base = ray_trial(sweep, "0000")
    assert base.config["spec"]["hyperparameters"] == {
        "optim.lr": sweep.config.optim.lr, "loss.pos_weight_power": sweep.config.loss.pos_weight_power,
        "data.oversample_min_count": sweep.config.data.oversample_min_count,
    }  # fmt: skip
    assert set(takeover(pbt_of(sweep), ray_trial(sweep, "0001"), base)["hyperparameters"]) == set(SPACE)
    none = make_sweep(tmp_path / "none", trials=4, scheduler="pbt", space={"optim.clip_norm": {"uniform": [0.5, 2]}})
    with pytest.raises(
        UserError, match=r"changes optim\.clip_norm step by step, and the base configuration has no value"
    ):
        pbt_of(none)


def test_a_trial_at_its_last_epoch_takes_nothing_over(tmp_path):
    sweep = make_sweep(tmp_path / "pbt", trials=4, scheduler="pbt", space=SPACE, failed=())
    last = sweep.config.train.epochs
    # Ray's own scheduler would raise, because it has no state of this trial.
    assert pbt_of(sweep).on_trial_result(None, SimpleNamespace(), {"epoch": last}) == TrialScheduler.CONTINUE


def test_asha_compares_the_rest_of_a_sweep_with_trials_that_ended_before(tmp_path):
    sweep = make_sweep(tmp_path / "asha", trials=8, epochs=4, reduction=2, failed=())
    assert {t.status for t in sweep.trial_records} == {FINISHED, STOPPED}
    fresh = make_sweep(tmp_path / "fresh", trials=8, epochs=4, reduction=2, failed=(), waiting=range(8))
    for one, wanted in ((sweep, TrialScheduler.STOP), (fresh, TrialScheduler.CONTINUE)):
        asha: Any = schedulers.build(one, searched(one))
        late: Any = SimpleNamespace(trial_id="late")
        asha.on_trial_add(None, late)
        assert asha.on_trial_result(None, late, {"epoch": 1, OBJECTIVE: 0.5}) == wanted


def test_trials_with_few_rows_get_enough_steps_before_they_are_compared(tmp_path):
    def grace(train_rows: int, **settings: Any) -> int:
        sweep = make_sweep(tmp_path / f"{train_rows}-{len(settings)}", trials=2, failed=(), **{"epochs": 9, **settings})
        sweep.update(rows={"train": train_rows, "val": 400, "test": 0})
        return sweep.grace_epochs

    batch = cfg.Train().batch_size
    assert grace(131_748) == grace(30 * batch) == grace(29 * batch + 1) == 1
    assert grace(29 * batch) == grace(15 * batch) == 2
    assert grace(batch) == 3  # a third of 9, so that ASHA can stop some
    assert grace(3, epochs=2) == 1
    assert grace(131_748, grace_epochs=4) == 4


def test_asha_stops_nothing_within_its_grace_epochs(tmp_path):
    sweep = make_sweep(tmp_path / "asha", trials=9, epochs=9, failed=(), waiting=range(9))
    sweep.update(rows={"train": 15 * sweep.config.train.batch_size, "val": 400, "test": 0})
    asha: Any = schedulers.build(sweep, searched(sweep))
    trials: list[Any] = [SimpleNamespace(trial_id=str(n)) for n in range(6)]
    for trial in trials:
        asha.on_trial_add(None, trial)
    worse = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    first = [asha.on_trial_result(None, t, {"epoch": 1, OBJECTIVE: v}) for t, v in zip(trials, worse, strict=True)]
    second = [asha.on_trial_result(None, t, {"epoch": 2, OBJECTIVE: v}) for t, v in zip(trials, worse, strict=True)]
    assert first == [TrialScheduler.CONTINUE] * 6 and second == [TrialScheduler.CONTINUE] + [TrialScheduler.STOP] * 5


def test_a_scheduler_prefers_trials_that_meet_the_constraint(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", trials=2, constraint="val/recall/mean >= 0.5")
    objective = objective_of(sweep.config.tune)
    met, violated = {"val/auroc/mean": 0.7, "val/recall/mean": 0.6}, {"val/auroc/mean": 0.75, "val/recall/mean": 0.3}
    assert objective(met) == 0.7 and objective(violated) == pytest.approx(0.55)
    # An undefined recall counts as the largest violation.
    assert objective({"val/auroc/mean": 0.7}) == pytest.approx(-0.3)
    assert objective({"val/recall/mean": 0.6}) == UNDEFINED
