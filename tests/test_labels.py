"""Targets, label groups and values by label, each compared with a slow definition."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.errors import UserError
from cxr_ray.labels import (
    SMOOTH_RANGES,
    apply_policy,
    expand_by_label,
    hard_targets,
    merge_groups,
    resolve,
    safe_name,
)

LABELS = ("Edema", "Mass", "Effusion")
GROUPS = {"two": ("Mass", "Edema"), "wet": ("Edema", "Effusion")}

raw = (
    st.integers(1, 40)
    .flatmap(lambda n: st.lists(st.tuples(*[st.sampled_from([1.0, 0.0, -1.0, np.nan])] * 3), min_size=n, max_size=n))
    .map(lambda rows: np.array(rows, dtype=np.float32).reshape(-1, 3))
)
policies = st.sampled_from(["zeros", "ones", "ignore", "smooth", "smooth_zeros"])


@settings(max_examples=80, deadline=None)
@given(
    raw, st.one_of(policies, st.dictionaries(st.sampled_from(LABELS), policies)), st.sampled_from(["zeros", "ignore"])
)
def test_uncertainty_policies_match_a_loop_over_cells(raw_NL, uncertain, blank):
    rows = np.arange(len(raw_NL), dtype=np.int64) * 3
    before_NL = raw_NL.copy()
    out = apply_policy(raw_NL, LABELS, uncertain, blank, row_N=rows, seed=5)
    np.testing.assert_array_equal(raw_NL, before_NL)  # the input is not changed
    assert out.dtype == np.float32
    for (i, j), value in np.ndenumerate(raw_NL):
        policy = uncertain if isinstance(uncertain, str) else uncertain.get(LABELS[j], "zeros")
        if np.isnan(value):
            assert out[i, j] == 0 if blank == "zeros" else np.isnan(out[i, j])
        elif value != -1:
            assert out[i, j] == value
        elif policy in SMOOTH_RANGES:
            low, high = SMOOTH_RANGES[policy]
            assert np.float32(low) <= out[i, j] <= np.float32(high)
        else:
            expected = {"zeros": 0.0, "ones": 1.0, "ignore": np.nan}[policy]
            assert np.array_equal(out[i, j], expected, equal_nan=True)


def test_smooth_samples_its_range_uniformly():
    n = 40_000
    raw_NL, rows = np.full((n, 2), -1, np.float32), np.arange(n)
    out = apply_policy(raw_NL, ("A", "B"), {"A": "smooth", "B": "smooth_zeros"}, "zeros", row_N=rows, seed=1)
    for column, (low, high) in zip(out.T, SMOOTH_RANGES.values(), strict=True):
        counts = np.histogram(column, bins=10, range=(low, high))[0]
        assert counts.sum() == n and abs(counts / n - 0.1).max() < 0.01
    assert abs(np.corrcoef(out[:, 0], out[:, 1])[0][1]) < 0.02  # labels are sampled independently
    assert SMOOTH_RANGES == {"smooth": (0.55, 0.85), "smooth_zeros": (0.0, 0.3)}  # as published


def test_a_smooth_target_depends_only_on_seed_row_and_label():
    rng = np.random.default_rng(0)
    raw_NL = rng.choice([1.0, 0.0, -1.0, np.nan], (50, 3)).astype(np.float32)
    row_N = np.arange(50) * 2
    full_NL = apply_policy(raw_NL, LABELS, "smooth", "ignore", row_N=row_N, seed=7)
    some = rng.permutation(50)[:20]
    fewer = apply_policy(raw_NL[some][:, [2, 0]], ("Effusion", "Edema"), "smooth", "ignore", row_N=row_N[some], seed=7)
    np.testing.assert_array_equal(fewer, full_NL[some][:, [2, 0]])
    other_NL = apply_policy(raw_NL, LABELS, "smooth", "ignore", row_N=row_N, seed=8)
    uncertain_NL = raw_NL == -1
    assert (other_NL[uncertain_NL] != full_NL[uncertain_NL]).all()
    np.testing.assert_array_equal(other_NL[~uncertain_NL], full_NL[~uncertain_NL])


def test_hard_targets_of_a_smooth_policy_equal_the_hard_policy():
    raw_NL = np.random.default_rng(0).choice([1.0, 0.0, -1.0, np.nan], (200, 3)).astype(np.float32)
    for soft, hard in (("smooth", "ones"), ("smooth_zeros", "zeros")):
        smooth_NL = apply_policy(raw_NL, LABELS, soft, "ignore", row_N=np.arange(200))
        np.testing.assert_array_equal(hard_targets(smooth_NL), apply_policy(raw_NL, LABELS, hard, "ignore"))


def test_an_unknown_label_in_a_policy_suggests_the_closest():
    with pytest.raises(UserError, match="unknown label 'Edma' in an uncertainty policy; did you mean 'Edema'"):
        apply_policy(np.zeros((1, 3), np.float32), LABELS, {"Edma": "ones"}, "zeros")


def test_labels_and_groups_resolve_to_labels_in_the_order_of_the_store():
    assert resolve("all", LABELS, GROUPS) == list(LABELS)
    assert resolve("two", LABELS, GROUPS) == ["Edema", "Mass"]
    assert resolve(["Effusion", "two"], LABELS, GROUPS) == list(LABELS)
    with pytest.raises(UserError, match="unknown label 'tow'; did you mean 'two'"):
        resolve("tow", LABELS, GROUPS)
    with pytest.raises(UserError, match="no label is selected"):
        resolve([], LABELS, GROUPS)
    with pytest.raises(UserError, match=r"the label group 'wet' needs \['Effusion'\], which the store does not have"):
        resolve("wet", ("Edema", "Mass"), GROUPS)


def test_user_groups_may_contain_groups_and_override_those_of_the_dataset():
    merged = merge_groups(GROUPS, {"mine": ["two", "Effusion"], "wet": ["Effusion"]}, LABELS)
    assert merged == {"two": ("Mass", "Edema"), "wet": ("Effusion",), "mine": ("Mass", "Edema", "Effusion")}
    assert resolve("mine", LABELS, merged) == list(LABELS)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"Edema": ["Mass"]}, "data.groups.Edema: a label or `all` already has this name; give the group another name"),
        ({"all": ["Mass"]}, "data.groups.all: a label or `all` already has this name; give the group another name"),
        ({"mine": []}, "data.groups.mine is empty; name at least one label"),
        ({"a": ["b"], "b": ["Mass", "a"]}, "the label group 'a' contains itself: a > b > a; see data.groups"),
        ({"mine": ["Edma"]}, "unknown label 'Edma' in the label group 'mine'; did you mean 'Edema'?"),
    ],
)
def test_invalid_groups_are_refused(own, message):
    with pytest.raises(UserError) as caught:
        merge_groups(GROUPS, own, LABELS)
    assert str(caught.value).startswith(message)


def test_values_by_label_group_and_all():
    def expand(values: Any) -> Any:
        return expand_by_label(values, LABELS, GROUPS, where="report.thresholds")

    assert expand(0.3) == 0.3
    assert expand({"all": 0.2, "two": 0.4, "Mass": 0.6}) == {
        "Edema": 0.4, "Mass": 0.6, "Effusion": 0.2,
    }  # fmt: skip
    assert expand({"two": 0.4, "wet": 0.4}) == dict.fromkeys(LABELS, 0.4)
    assert expand({"two": 0.4, "wet": 0.5, "Edema": 0.1})["Edema"] == 0.1
    with pytest.raises(UserError) as caught:
        expand({"two": 0.4, "wet": 0.5})
    assert str(caught.value) == "report.thresholds: two and wet disagree about 'Edema'; set 'Edema' itself"
    with pytest.raises(UserError, match=r"unknown label 'Edma' in report\.thresholds; did you mean 'Edema'"):
        expand({"Edma": 0.4})


@given(st.text(max_size=12))
def test_a_label_is_one_line_without_what_changes_a_terminal(name):
    label = safe_name(name)
    assert len(label.splitlines()) <= 1 and not set(label) & {*map(chr, (*range(32), *range(127, 160))), "/", "."}
    assert safe_name(label) == label


def test_a_label_from_a_header_of_two_lines_keeps_its_words():
    assert safe_name("Pleural\neffusion ") == "Pleural effusion"
    assert safe_name("Nodule/Mass") == "Nodule_Mass"
    assert safe_name("E\u0301panchement") == "\u00c9panchement"
