"""Ranking of trials: the order by objective, constraints and folds, and the Pareto front."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.tuning import ranking
from cxr_ray.tuning.ranking import Constraint, compared_to
from cxr_ray.tuning.trial import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Trial


def trial(
    number: int, fold: int | None = None, status: str = FINISHED, epoch: int | None = 3, **values: float
) -> Trial:
    """`auroc_mean=0.9` is the metric val/auroc/mean."""
    name = f"{number:04d}" + ("" if fold is None else f"-fold-{fold}")
    by_name = {f"val/{k.replace('_', '/')}": v for k, v in values.items()}
    return Trial(name, number, {"optim.lr": number / 10}, fold, status=status, epoch=epoch, values=by_name)


def order(trials: list[Trial], *limits: str, **settings: Any) -> list[int]:
    tune = cfg.Tune(constraint=list(limits) or None, **settings)
    return [r.number for r in ranking.rank(trials, tune, ranking.constraints(tune))]


# Order


def test_the_best_is_first_and_undefined_ones_are_last() -> None:
    trials = [trial(0, auroc_mean=0.7), trial(1, auroc_mean=0.9), trial(2, recall_mean=0.9), trial(3, auroc_mean=0.8)]
    assert order(trials) == [1, 3, 0, 2]
    assert order(trials, metric="val/auroc/macro") == [1, 3, 0, 2]  # another name of the same metric
    losses = [trial(0, loss=0.4), trial(1, loss=0.2), trial(2, loss=0.3)]
    assert order(losses, metric="val/loss", mode="min") == [1, 2, 0]


def test_failed_trials_and_those_without_an_evaluation_are_not_ranked() -> None:
    trials = [trial(0, auroc_mean=0.7), trial(1, status=FAILED, auroc_mean=0.9), trial(2, status=WAITING, epoch=None),
              trial(3, status=STOPPED, auroc_mean=0.8), trial(4, status=RUNNING, auroc_mean=0.75)]  # fmt: skip
    assert order(trials) == [3, 4, 0]
    assert order([]) == []


def test_a_constraint_comes_before_the_objective() -> None:
    trials = [trial(0, auroc_mean=0.9, recall_mean=0.5), trial(1, auroc_mean=0.7, recall_mean=0.8), trial(2, auroc_mean=0.8, recall_mean=0.9),
              trial(3, auroc_mean=0.95)]  # fmt: skip
    assert order(trials, "val/recall/mean >= 0.8") == [2, 1, 3, 0]
    assert order(trials, "val/recall/macro >= 0.8") == [2, 1, 3, 0]
    assert order(trials, "val/recall/mean >= 0.8", "val/auroc/mean <= 0.75") == [1, 3, 0, 2]


def test_folds_are_ranked_by_their_mean_once_all_are_evaluated() -> None:
    trials = [trial(0, 0, auroc_mean=0.9), trial(0, 1, auroc_mean=0.7), trial(1, 0, auroc_mean=0.82), trial(1, 1, auroc_mean=0.84),
              trial(2, 0, auroc_mean=0.99)]  # fmt: skip
    tune = cfg.Tune(folds=2, scheduler="none")
    ranked = ranking.rank(trials, tune, [])
    assert [r.number for r in ranked] == [1, 0]
    assert ranked[0].values == pytest.approx((0.83,))
    assert ranked[0].deviation == pytest.approx((np.std([0.82, 0.84], ddof=1),))
    assert ranked[0].hyperparameters == {"optim.lr": 0.1} and len(ranked[0].trials) == 2
    undefined = [trial(0, 0, auroc_mean=0.9), trial(0, 1, recall_mean=0.7), *trials[2:4]]
    assert [r.number for r in ranking.rank(undefined, tune, [])] == [1, 0]  # undefined on a fold: no mean
    one_failed = [trials[0], replace(trials[1], status=FAILED), *trials[2:4]]
    assert [r.number for r in ranking.rank(one_failed, tune, [])] == [1]


def test_without_folds_there_is_no_deviation() -> None:
    tune = cfg.Tune(metric=["val/auroc/mean", "val/recall/mean"])
    (ranked,) = ranking.rank([trial(0, auroc_mean=0.9)], tune, [])
    assert ranked.values[0] == 0.9 and math.isnan(ranked.values[1]) and all(math.isnan(d) for d in ranked.deviation)


@given(st.lists(st.floats(0, 1) | st.none(), max_size=12), st.sampled_from(["max", "min"]))
def test_the_order_is_that_of_sorting(values: list[float | None], mode: Any) -> None:
    trials = [trial(i) if v is None else trial(i, auroc_mean=v) for i, v in enumerate(values)]
    defined = sorted((v for v in values if v is not None), reverse=mode == "max")
    ranked = ranking.rank(trials, cfg.Tune(mode=mode), [])
    assert [r.values[0] for r in ranked[: len(defined)]] == defined
    assert all(math.isnan(r.values[0]) for r in ranked[len(defined) :]) and len(ranked) == len(values)


# Pareto front


def dominates(a: Any, b: Any, modes: Any) -> bool:
    """a is at least as good in all and better in one, from the definition."""
    gains = [x - y if mode == "max" else y - x for x, y, mode in zip(a, b, modes, strict=True)]
    return all(g >= 0 for g in gains) and any(g > 0 for g in gains)


@given(
    st.integers(1, 3).flatmap(
        lambda m: st.tuples(
            st.lists(st.tuples(*[st.integers(0, 4) | st.just(math.nan)] * m), max_size=10),
            st.tuples(*[st.sampled_from(["max", "min"])] * m),
        )
    )
)
def test_pareto_rows_are_those_that_no_other_dominates(case: tuple[list[tuple[float, ...]], tuple[Any, ...]]) -> None:
    rows, modes = case
    mask = ranking.pareto_mask(np.array(rows, float).reshape(len(rows), len(modes)), modes).tolist()
    known = [not any(math.isnan(v) for v in row) for row in rows]
    want = [
        known[i] and not any(known[j] and dominates(other, row, modes) for j, other in enumerate(rows))
        for i, row in enumerate(rows)
    ]
    assert mask == want


def test_equal_trials_are_both_on_the_front() -> None:
    assert ranking.pareto_mask([[1, 2], [1, 2], [0, 3], [1, 1]], ["max", "max"]).tolist() == [True, True, True, False]


def test_infeasible_trials_are_not_on_the_front_and_dominate_no_feasible_one() -> None:
    tune = cfg.Tune(metric=["val/auroc/mean", "val/precision/mean"], constraint="val/recall/mean >= 0.5")
    trials = [trial(0, auroc_mean=0.9, precision_mean=0.9, recall_mean=0.4), trial(1, auroc_mean=0.8, precision_mean=0.5, recall_mean=0.6),
              trial(2, auroc_mean=0.7, precision_mean=0.6, recall_mean=0.5), trial(3, auroc_mean=0.7, precision_mean=0.5, recall_mean=0.9)]  # fmt: skip
    ranked = ranking.rank(trials, tune, ranking.constraints(tune))
    assert ranking.pareto_front(ranked, tune.modes) == {1, 2}
    assert ranking.pareto_front(ranked[-1:], tune.modes) == set()


# Constraints


@pytest.mark.parametrize(
    ("text", "metric", "above", "limit"),
    [
        ("val/recall/mean >= 0.8", "val/recall/mean", True, 0.8),
        ("  val/loss<=1e-1 ", "val/loss", False, 0.1),
        ("val/recall/Pleural Effusion >= .5", "val/recall/Pleural Effusion", True, 0.5),
        ("val/recall/macro >= -1", "val/recall/mean", True, -1.0),
    ],
)
def test_constraints_are_parsed(text: str, metric: str, above: bool, limit: float) -> None:
    assert ranking.constraints(cfg.Tune(constraint=text)) == [Constraint(metric, above, limit)]


@pytest.mark.parametrize(
    "text",
    [
        "val/recall/mean > 0.8",
        "val/recall/mean >= ",
        ">= 0.8",
        "val/recall/mean >= 0.8.1",
        "recall",
        "",
        "val/loss <= e",
    ],
)
def test_constraints_that_cannot_be_parsed_show_the_syntax(text: str) -> None:
    with pytest.raises(UserError, match=r'tune\.constraint: cannot read .*; write "METRIC >= NUMBER"'):
        ranking.constraints(cfg.Tune(constraint=[text]))


def test_a_constraint_is_met_at_its_limit_and_not_by_an_undefined_value() -> None:
    least, most = Constraint("val/recall/mean", True, 0.8), Constraint("val/loss", False, 0.5)
    assert least.met({"val/recall/mean": 0.8}) and not least.met({"val/recall/mean": 0.7999}) and not least.met({})
    assert most.met({"val/loss": 0.5}) and not most.met({"val/loss": 0.6}) and not most.met({"val/loss": math.nan})
    assert (str(least), str(most)) == ("val/recall/mean >= 0.8", "val/loss <= 0.5")


def test_older_words_of_a_comparison_are_replaced() -> None:
    assert (
        compared_to("the second") == "the second-best trial"
        and compared_to("the config as written") == "the base configuration"
    )
    assert compared_to("the second-best trial") == "the second-best trial"
