"""Derived labels: Kleene's logic from its definition, names, order, and the plan that uses them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray import config as cfg
from cxr_ray.data import plan as plans
from cxr_ray.data.derive import add_derived, combine
from cxr_ray.errors import UserError
from cxr_ray.labels import apply_policy
from tests.fakes.store import FakeStore, fake_store


def data(**settings: Any) -> cfg.Data:
    return cfg.validate({"data": settings}).data


def kleene(rule: str, values: list[float]) -> float:
    """any or all of 0, 1 and NaN, by trying both values of each unknown one."""
    worlds: list[list[float]] = [[]]
    for value in values:
        worlds = [[*world, v] for world in worlds for v in ([0.0, 1.0] if np.isnan(value) else [value])]
    found = {float(any(world) if rule == "any" else all(world)) for world in worlds}
    return found.pop() if len(found) == 1 else np.nan


raw_values = st.sampled_from([1.0, 0.0, -1.0, np.nan])
policies = st.sampled_from(["zeros", "ones", "ignore"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(raw_values, min_size=1, max_size=4),
    st.sampled_from(["any", "all"]),
    policies,
    st.sampled_from(["zeros", "ignore"]),
)
def test_a_target_is_that_of_the_members_or_unknown(values: list[float], rule: str, uncertain: str, blank: str) -> None:
    """A policy on the derived label gives what Kleene's logic makes of the members under the same policy; never the opposite."""
    raw_NM = np.array([values], np.float32)
    members = [f"m{at}" for at in range(len(values))]
    expected = kleene(rule, apply_policy(raw_NM, members, uncertain, blank)[0].tolist())
    made = combine(raw_NM, rule, blank=blank)[:, None]
    target = float(apply_policy(made, ["made"], uncertain, blank)[0, 0])
    assert np.isnan(target) or target == expected
    if blank == "zeros" or -1.0 not in values:
        np.testing.assert_equal(target, expected)


def test_columns_are_after_those_of_the_store_and_do_not_change_it() -> None:
    store = fake_store(50, uncertain=0.2, unknown=0.2)
    before = store.index.copy()
    settings = data(
        derive={"Wet": {"any": ["Edema", "Effusion"]}, "Both": {"all": ["Wet", "Mass"]}}, groups={"g": ["Wet"]}
    )
    index, info = add_derived(store.index, store.info, settings)
    assert info.labels == ("Edema", "Mass", "Effusion", "Wet", "Both") == info.default_labels
    assert store.index.equals(before) and store.info.labels == ("Edema", "Mass", "Effusion")
    for _, row in index.iterrows():
        wet = [row["Edema"], row["Effusion"]]
        expected = 1.0 if 1 in wet else -1.0 if -1 in wet else np.nan if np.isnan(wet).any() else 0.0
        np.testing.assert_equal(row["Wet"], np.float32(expected))
        both = [row["Wet"], row["Mass"]]
        expected = 0.0 if 0 in both else np.nan if np.isnan(both).any() else -1.0 if -1 in both else 1.0
        np.testing.assert_equal(row["Both"], np.float32(expected))
    same, unchanged = add_derived(store.index, store.info, data())
    assert same is store.index and unchanged is store.info


def refusal(store: FakeStore, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        add_derived(store.index, store.info, data(**settings))
    return str(caught.value)


@pytest.mark.parametrize("name", ["Edema", "view", "wet", "own"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    store = fake_store(10)
    store.declare(groups={"wet": ("Edema",)})
    message = refusal(store, derive={name: {"any": ["Mass"]}}, groups={"own": ["Mass"]})
    assert message == f"data.derive: {name!r} is already a label, a group or a column; give it another name"


@pytest.mark.parametrize("name", ["all", "mean", "micro", "macro", "weighted"])
def test_a_name_that_means_several_labels_is_refused(name: str) -> None:
    store = fake_store(10)
    store.index = store.index.drop(columns="mean", errors="ignore")
    message = refusal(store, derive={name: {"any": ["Mass"]}})
    assert message == f"data.derive: {name!r} means several labels in settings and metrics; give the label another name"


def test_wrong_members_are_refused() -> None:
    store = fake_store(10)
    assert refusal(store, derive={"X": {"any": ["Edma"]}}).startswith(
        "unknown label 'Edma' in data.derive.X; did you mean 'Edema'? Known: Edema, Effusion, Mass, X"
    )
    late = {"X": {"any": ["Y"]}, "Y": {"any": ["Mass"]}}
    assert refusal(store, derive=late) == "data.derive.X needs 'Y', which must be listed before it"
    assert refusal(store, derive={"X": {"any": ["X"]}}) == "data.derive.X needs 'X', which must be listed before it"
    assert refusal(store, derive={"a/b": {"any": ["Mass"]}}) == "data.derive: 'a/b' cannot be a label; write 'a_b'"


def test_a_plan_trains_on_derived_labels_and_restores_them() -> None:
    store = fake_store(200, uncertain=0.2, unknown=0.1)
    settings = data(derive={"Wet": {"any": ["Edema", "Effusion"]}}, uncertain={"Wet": "ones"}, blank="ignore")
    plan = plans.build(store, settings, seed=0)
    assert plan.labels == ("Edema", "Mass", "Effusion", "Wet")
    index, _ = add_derived(store.index, store.info, settings)
    raw = index.set_index("row")["Wet"]
    for part in plans.PARTS:
        uncertain = 1.0 if part == "train" else np.nan
        expected = [uncertain if raw[row] == -1 else raw[row] for row in plan.rows[part]]
        np.testing.assert_array_equal(plan.truth[part][:, 3], np.array(expected, np.float32))
    again = plans.restore(store, settings, plan.table(), labels=plan.labels, task=plan.task, seed=0)
    for part in plans.PARTS:
        np.testing.assert_array_equal(again.truth[part], plan.truth[part])
    only = plans.build(store, data(derive={"Wet": {"any": ["Edema", "Effusion"]}}, labels=["Wet"]), seed=0)
    assert only.labels == ("Wet",) and only.task == "binary"
    kept = plans.build(store, data(derive={"Wet": {"any": ["Edema", "Mass"]}}, filters=["Wet == 1"]), seed=0)
    assert sum(map(len, kept.rows.values())) == int(((store.index["Edema"] == 1) | (store.index["Mass"] == 1)).sum())


def test_classes_stay_classes_unless_a_derived_label_is_named() -> None:
    store = fake_store(120, task="multiclass")
    derive = {"Not mass": {"any": ["Edema", "Effusion"]}}
    for filters in ("default", "none"):
        whole = plans.build(store, data(derive=derive, filters=filters), seed=0)
        assert (whole.task, whole.labels) == ("multiclass", ("Edema", "Mass", "Effusion"))
    assert plans.build(store, data(derive=derive, labels=["Mass", "Not mass"]), seed=0).task == "multilabel"
    plan = plans.build(store, data(derive=derive, labels=["Not mass"]), seed=0)
    assert plan.task == "binary"
    index = store.index.set_index("row")
    np.testing.assert_array_equal(plan.truth["train"][:, 0], 1 - index.loc[plan.rows["train"], "Mass"])


def test_unknown_labels_of_a_dataset_are_masked_whatever_blank_says() -> None:
    store = fake_store(200, unknown=0.3)
    masked = {}
    for unknown in (False, True):
        store.declare(blank_is_unknown=unknown)
        truth = plans.build(store, data(blank="zeros"), seed=0).truth
        masked[unknown] = [int(np.isnan(truth[part]).sum()) for part in plans.PARTS]
    assert masked[False] == [0, 0, 0] and all(masked[True])
