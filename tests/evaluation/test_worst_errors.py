"""The worst errors of a table, against a loop over its cells."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.errors import UserError
from cxr_ray.evaluation.worst_errors import ALARM, MISSED, errors_of, worst_errors
from cxr_ray.metrics.table import decide
from tests.evaluation.example_runs import LABELS as FINDINGS
from tests.evaluation.example_runs import example_run
from tests.report.test_run_page import make_run

LABELS = ("a", "b", "c")


@given(st.integers(0, 30), st.integers(0, 10_000), st.sampled_from(["multilabel", "multiclass"]))
def test_every_wrong_cell_is_listed_the_worst_first(n: int, seed: int, task: str) -> None:
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        truth = np.eye(3)[rng.integers(0, 3, n)]
        prob = rng.dirichlet(np.ones(3), n)
    else:
        truth = rng.choice([0.0, 1.0, np.nan], (n, 3))
        prob = rng.choice([0.0, 0.2, 0.5, 0.9, 1.0], (n, 3))
    rows, limits = rng.permutation(100)[:n], np.array([0.5, 0.3, 0.9])
    table = decide(truth, prob, labels=LABELS, task=task, thresholds_L=limits)
    expected = []
    for i in range(n):
        for j, label in enumerate(LABELS):
            positive = prob[i, j] == prob[i].max() if task == "multiclass" else prob[i, j] >= limits[j]
            if math.isnan(truth[i, j]) or bool(truth[i, j]) == positive:
                continue
            given_to_truth = prob[i, j] if truth[i, j] else 1.0 - prob[i, j]
            loss = math.inf if given_to_truth == 0.0 else -math.log(given_to_truth)
            expected.append((rows[i], label, MISSED if truth[i, j] else ALARM, prob[i, j], loss))
    found = worst_errors(table, rows, limits)
    cells = list(found[["row", "label", "kind", "probability", "loss"]].itertuples(index=False, name=None))
    assert [c[:4] for c in sorted(cells)] == [c[:4] for c in sorted(expected)]
    assert np.allclose(sorted(c[4] for c in cells), sorted(c[4] for c in expected))
    assert found["loss"].tolist() == sorted(found["loss"], reverse=True)
    if task == "multiclass":
        assert all(
            (t == k) == (kind == MISSED) for t, k, kind in found[["truth", "label", "kind"]].itertuples(index=False)
        )
        assert (found["truth"] != found["decision"]).all()
    else:
        assert set(zip(found["kind"], found["truth"], found["decision"], strict=True)) <= {
            (MISSED, "positive", "negative"),
            (ALARM, "negative", "positive"),
        }


def test_the_errors_of_a_run_are_those_at_its_thresholds(tmp_path: Path) -> None:
    run, label = example_run(tmp_path, "one"), FINDINGS[0]
    table = run.predictions("test")
    part, found = errors_of(run, labels=[label], thresholds={label: 0.3})
    truth, positive = table[f"true/{label}"], table[f"prob/{label}"] >= 0.3
    wrong = table.loc[truth.notna() & (truth.eq(1) != positive), "row"]
    assert part == "test" and sorted(found["row"]) == sorted(wrong) and set(found["label"]) == {label}
    assert (found["threshold"] == 0.3).all()
    assert errors_of(run, "val")[0] == "val" and len(errors_of(run)[1]) > len(found)
    with pytest.raises(UserError, match="has no predictions of train"):
        errors_of(run, "train")
    with pytest.raises(UserError, match="did you mean"):
        errors_of(run, labels=[label + "x"])


def test_a_wrong_row_of_classes_has_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "classes", FINDINGS, "multiclass", rows=120, skill=1.0)
    table = run.predictions("test")
    truth, prob = (table[[f"{kind}/{k}" for k in FINDINGS]].to_numpy() for kind in ("true", "prob"))
    wrong = truth.argmax(axis=1) != prob.argmax(axis=1)
    found = errors_of(run)[1]
    assert sorted(found["row"]) == sorted(table.loc[wrong, "row"])
    one = errors_of(run, labels=[FINDINGS[1]])[1]
    touched = wrong & ((truth.argmax(axis=1) == 1) | (prob.argmax(axis=1) == 1))
    assert sorted(one["row"]) == sorted(table.loc[touched, "row"])
