"""Rows of a sweep's page: rank, constraints, mean over folds."""

from pathlib import Path

from cxr_ray.tuning import ranking
from cxr_ray.tuning.combinations import combination_rows
from tests.fakes.sweep import make_sweep


def test_constraints_and_ranking_agree_with_the_sweep(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", labels=("Edema", "Mass"), epochs=2, constraint="val/recall/mean >= 0.4")
    rows = combination_rows(sweep.trial_records, sweep.config, sweep.info, sweep.ranked())
    assert [r.place for r in rows if r.place] == list(range(1, 16))  # one of the 16 failed
    limits = ranking.constraints(sweep.config.tune)
    assert [all(c.met(r.values) for c in limits) for r in rows if r.place] == [r.feasible for r in sweep.ranked()]
