"""What the sections of a sweep's page state, from trials that are made up."""

from dataclasses import replace
from pathlib import Path

import pytest

from cxr_ray.plotting import sweep_plots as draw
from cxr_ray.report import sweep_sections
from cxr_ray.tuning import combinations, ranking
from cxr_ray.tuning.trial import FINISHED, RUNNING, STOPPED, WAITING, Trial
from tests.fakes.sweep import make_sweep

THREE = ("Edema", "Mass", "Effusion")


def test_a_trial_that_is_worse_than_the_base_configuration_is_not_called_better() -> None:
    one = {
        "what": "the base configuration",
        "metric": "auroc",
        "part": "val",
        "value": -0.02,
        "low": -0.03,
        "high": -0.01,
        "p": 0.01,
    }
    assert sweep_sections.difference_text(one).endswith("It is worse.")
    assert sweep_sections.difference_text({**one, "mode": "min", "metric": "brier"}).endswith(
        "More than chance explains."
    )
    assert "no interval" in sweep_sections.difference_text({**one, "low": None, "high": None, "p": None})


def test_a_difference_names_its_label_and_its_folds() -> None:
    one = {"what": "the second-best trial", "trial": "0003", "metric": "auroc", "label": "Edema", "part": "val", "value": 0.02,
           "low": 0.01, "high": 0.03, "p": 0.01, "folds": 5, "folds_better": 4, "by_fold": 0.018}  # fmt: skip
    assert sweep_sections.difference_text(one) == (
        "Against the second-best trial (0003): +0.020 ROC AUC of Edema on val (+0.010 to +0.030, p 0.010). More than chance explains. "
        "Better on 4 of 5 folds, the means over folds differ by +0.018."
    )


def test_costs_count_what_early_stopping_saved() -> None:
    """By hand: two trials of 4 epochs, one stopped after 2 epochs and 10 s: it saved 2 epochs of 5 s out of 20 + 20 + 20."""

    class Config:
        class train:
            epochs = 4

    base = Trial("0000", 0, {}, status=FINISHED, epochs=4, seconds=20.0)
    trials = [base, replace(base, name="0001"), replace(base, name="0002", status=STOPPED, epochs=2, seconds=10.0),
              Trial("0003", 3, {}, status=WAITING)]  # fmt: skip
    found = sweep_sections.training_costs(trials, Config, {"seconds": 25.0, "status": "finished"})  # type: ignore[arg-type]
    assert found is not None
    assert (found["seconds"], found["epochs"], found["full"], found["saved"]) == (50.0, 10, 12, 10.0)
    assert found["share"] == pytest.approx(1 / 6) and found["at_once"] == 2.0


def test_the_time_left_is_estimated_from_ended_trials() -> None:
    """Two ended after 4 epochs of 5 s; one of two running trials has done 3, six wait: (1 + 4 + 6 x 4) epochs, two at a time."""
    done = Trial("0000", 0, {}, status=FINISHED, epochs=4, seconds=20.0)
    running = [Trial("a", 1, {}, status=RUNNING, epochs=3), Trial("b", 2, {}, status=RUNNING, epochs=0)]
    waiting = [Trial(str(i), i, {}, status=WAITING) for i in range(6)]
    info = {"status": "started", "planned": 10}
    found = sweep_sections.state_of(info, [done, done, *running, *waiting], None)  # type: ignore[arg-type]
    assert found["left_s"] == pytest.approx((1 + 4 + 24) * 5 / 2)
    assert (found["ended"], found["running"], found["planned"]) == (2, 2, 10)
    assert sweep_sections.state_of({**info, "status": "stopped"}, [done, *running], None)["left_s"] is None  # type: ignore[arg-type]
    assert sweep_sections.state_of(info, [*running, *waiting], None)["left_s"] is None  # type: ignore[arg-type]


def test_a_winner_that_finds_nothing_is_warned_of_and_zeros_win_nothing(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", labels=THREE, trials=4)
    quiet = [replace(t, values={**t.values, "val/recall/Mass": 0.0}) if t.values else t for t in sweep.trial_records]
    config, info = sweep.config, sweep.info
    rows = combinations.combination_rows(quiet, config, info, ranking.rank(quiet, config.tune, []))
    evaluated = combinations.evaluated(rows)
    best = next(row for row in evaluated if row.place == 1)
    assert sweep_sections.silent_labels(best, THREE) == ["Mass"] and sweep_sections.silent_labels(None, THREE) == []
    recall = next(m for m in sweep_sections.heat_maps(evaluated, THREE) if m["metric"] == "recall")
    cells = [line["cells"][1] for line in recall["lines"]]
    assert {cell["value"] for cell in cells} == {0.0} and not any(cell["best"] for cell in cells)
    assert {cell["colours"] for cell in cells} == {draw.shade_of(0.0)}
    assert sum(line["cells"][0]["best"] for line in recall["lines"]) >= 1
    each = {row["label"]: row["cells"][0] for row in sweep_sections.best_by_label(evaluated, THREE, best)}
    assert each["Mass"]["row"] is None and each["Edema"]["row"] is not None
