"""The label space against slow definitions: policies cell by cell, groups by name, one value for many labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.errors import UserError
from cxr_ray.labels import SMOOTH_RANGES, apply_policy, merge_groups, nearest, resolve, spread

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
def test_policies_cell_by_cell(raw_NL, uncertain, blank):
    rows = np.arange(len(raw_NL), dtype=np.int64) * 3
    held = raw_NL.copy()
    out = apply_policy(raw_NL, LABELS, uncertain, blank, row_N=rows, seed=5)
    np.testing.assert_array_equal(raw_NL, held)  # the raw values stay
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


def test_smooth_fills_its_range_evenly():
    n = 40_000
    raw_NL, rows = np.full((n, 2), -1, np.float32), np.arange(n)
    out = apply_policy(raw_NL, ("A", "B"), {"A": "smooth", "B": "smooth_zeros"}, "zeros", row_N=rows, seed=1)
    for column, (low, high) in zip(out.T, SMOOTH_RANGES.values(), strict=True):
        counts = np.histogram(column, bins=10, range=(low, high))[0]
        assert counts.sum() == n and abs(counts / n - 0.1).max() < 0.01
    assert abs(np.corrcoef(out.T)[0, 1]) < 0.02  # labels are drawn apart
    assert SMOOTH_RANGES == {"smooth": (0.55, 0.85), "smooth_zeros": (0.0, 0.3)}  # as published


def test_a_draw_hangs_on_seed_row_and_label_alone():
    rng = np.random.default_rng(0)
    raw_NL = rng.choice([1.0, 0.0, -1.0, np.nan], (50, 3)).astype(np.float32)
    rows = np.arange(50) * 2
    whole = apply_policy(raw_NL, LABELS, "smooth", "ignore", row_N=rows, seed=7)
    some = rng.permutation(50)[:20]
    fewer = apply_policy(raw_NL[some][:, [2, 0]], ("Effusion", "Edema"), "smooth", "ignore", row_N=rows[some], seed=7)
    np.testing.assert_array_equal(fewer, whole[some][:, [2, 0]])
    other = apply_policy(raw_NL, LABELS, "smooth", "ignore", row_N=rows, seed=8)
    here = raw_NL == -1
    assert (other[here] != whole[here]).all()
    np.testing.assert_array_equal(other[~here], whole[~here])


def test_nearest_is_the_hard_policy_of_the_same_side():
    raw_NL = np.random.default_rng(0).choice([1.0, 0.0, -1.0, np.nan], (200, 3)).astype(np.float32)
    for soft, hard in (("smooth", "ones"), ("smooth_zeros", "zeros")):
        drawn = apply_policy(raw_NL, LABELS, soft, "ignore", row_N=np.arange(200))
        np.testing.assert_array_equal(nearest(drawn), apply_policy(raw_NL, LABELS, hard, "ignore"))


def test_an_unknown_label_in_a_policy_names_the_closest():
    with pytest.raises(UserError, match="unknown label 'Edma' in an uncertainty policy; did you mean 'Edema'"):
        apply_policy(np.zeros((1, 3), np.float32), LABELS, {"Edma": "ones"}, "zeros")


def test_labels_groups_and_lists_of_both_in_the_stores_order():
    assert resolve("all", LABELS, GROUPS) == list(LABELS)
    assert resolve("two", LABELS, GROUPS) == ["Edema", "Mass"]
    assert resolve(["Effusion", "two"], LABELS, GROUPS) == list(LABELS)
    with pytest.raises(UserError, match="unknown label 'tow'; did you mean 'two'"):
        resolve("tow", LABELS, GROUPS)
    with pytest.raises(UserError, match="no label is chosen"):
        resolve([], LABELS, GROUPS)
    with pytest.raises(UserError, match=r"the label group 'wet' needs \['Effusion'\], which the store does not have"):
        resolve("wet", ("Edema", "Mass"), GROUPS)


def test_the_users_groups_hold_labels_and_groups_and_go_first():
    merged = merge_groups(GROUPS, {"mine": ["two", "Effusion"], "wet": ["Effusion"]}, LABELS)
    assert merged == {"two": ("Mass", "Edema"), "wet": ("Effusion",), "mine": ("Mass", "Edema", "Effusion")}
    assert resolve("mine", LABELS, merged) == list(LABELS)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"Edema": ["Mass"]}, "data.groups.Edema: a label is called so; give the group another name"),
        ({"all": ["Mass"]}, "data.groups.all: a label is called so; give the group another name"),
        ({"mine": []}, "data.groups.mine is empty; name at least one label"),
        ({"a": ["b"], "b": ["Mass", "a"]}, "the label group 'a' holds itself: a > b > a; see data.groups"),
        ({"mine": ["Edma"]}, "unknown label 'Edma' in the label group 'mine'; did you mean 'Edema'?"),
    ],
)
def test_groups_that_cannot_be(own, said):
    with pytest.raises(UserError) as caught:
        merge_groups(GROUPS, own, LABELS)
    assert str(caught.value).startswith(said)


def test_one_value_for_many_labels():
    where = "report.thresholds"
    assert spread(0.3, LABELS, GROUPS, where=where) == 0.3
    assert spread({"all": 0.2, "two": 0.4, "Mass": 0.6}, LABELS, GROUPS, where=where) == {
        "Edema": 0.4, "Mass": 0.6, "Effusion": 0.2,
    }  # fmt: skip
    assert spread({"two": 0.4, "wet": 0.4}, LABELS, GROUPS, where=where) == dict.fromkeys(LABELS, 0.4)
    assert spread({"two": 0.4, "wet": 0.5, "Edema": 0.1}, LABELS, GROUPS, where=where)["Edema"] == 0.1
    with pytest.raises(UserError) as caught:
        spread({"two": 0.4, "wet": 0.5}, LABELS, GROUPS, where=where)
    assert str(caught.value) == "report.thresholds: two and wet disagree about 'Edema'; name 'Edema' itself"
    with pytest.raises(UserError, match=r"unknown label 'Edma' in report\.thresholds; did you mean 'Edema'"):
        spread({"Edma": 0.4}, LABELS, GROUPS, where=where)
