"""Splits against their promises: patients whole, shares met, rare labels everywhere they can be."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray import config as cfg
from cxr_ray.data import plan as plans
from cxr_ray.data import split
from cxr_ray.errors import UserError
from tests.fakes.store import fake_store


def data(**hyperparameters) -> cfg.Data:
    return cfg.validate({"data": hyperparameters}).data


def test_groups_are_patients_and_unnamed_rows_stand_alone():
    group = split.groups_of(pd.Series(["p", None, "q", "p", np.nan], dtype=object), 5)
    assert group[0] == group[3] and len(set(group)) == 4 and set(group) == set(range(4))
    assert split.groups_of(None, 3).tolist() == [0, 1, 2]


@st.composite
def cohorts(draw):
    """Groups of 1 to 4 rows with three labels, of which the last is rare."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = rng.integers(1, 5, draw(st.integers(12, 150)))
    group = np.repeat(np.arange(len(sizes)), sizes)
    positive = rng.random((len(group), 3)) < draw(st.sampled_from([[0.5, 0.2, 0.02], [0.9, 0.3, 0.05]]))
    return rng.permuted(group), positive, draw(st.integers(0, 999))


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.sampled_from([(0.8, 0.2), (0.2,) * 5, (0.7, 0.1, 0.2)]))
def test_strata_keep_groups_whole_meet_shares_and_spread_rare_labels(cohort, shares):
    group, positive, seed = cohort
    part = split.stratify(group, positive, shares, rng=np.random.default_rng(seed))
    assert set(part) <= set(range(len(shares)))
    table = pd.DataFrame({"group": group, "part": part})
    assert (table.groupby("group")["part"].nunique() == 1).all()
    counts = np.bincount(part, minlength=len(shares))
    assert np.abs(counts - np.multiply(shares, len(group))).max() <= 12  # a few groups of at most 4 rows
    rare = int(np.argmin([len(set(group[p])) or 10**9 for p in positive.T]))
    holders = len(set(group[positive[:, rare]]))
    reached = len(set(part[positive[:, rare]]))
    assert reached >= min(holders, len(shares)), (holders, reached)


def test_a_stratified_cut_is_nearer_than_a_drawn_one():
    """Thirty cuts of 300 patients: the worst share of a label that 5% have stays nearer than a plain draw's median."""
    rng = np.random.default_rng(0)
    positive = rng.random((300, 2)) < [0.4, 0.05]
    group = np.arange(300)
    shares = [0.8, 0.2]
    ours, repeats = [], []
    for seed in range(30):
        part = split.stratify(group, positive, shares, rng=np.random.default_rng(seed))
        plain = np.random.default_rng(seed).permutation(300) < 60
        ours.append(abs(positive[part == 1, 1].mean() - positive[:, 1].mean()))
        repeats.append(abs(positive[plain, 1].mean() - positive[:, 1].mean()))
    assert max(ours) < 0.01 < np.median(repeats) + 0.01 and max(ours) < np.median(repeats)


def test_the_test_part_moves_with_neither_val_nor_folds_nor_labels():
    store = fake_store(200)
    base = plans.build(store, data(), seed=0).rows["test"]
    for hyperparameters in (
        {"split": {"val": 0.3}},
        {"split": {"folds": 4, "fold": 2}},
        {"labels": ["Mass"]},
        {"uncertain": "ones"},
    ):
        assert np.array_equal(plans.build(store, data(**hyperparameters), seed=0).rows["test"], base)


def test_folds_hold_out_every_row_once_by_patient():
    store = fake_store(203, images_a_patient=3)
    found = [plans.build(store, data(split={"folds": 5, "fold": k, "test": 0}), seed=0) for k in range(5)]
    assert sorted(np.concatenate([p.rows["val"] for p in found])) == sorted(store.index["row"])
    by_row = store.index.set_index("row")["patient"]
    for plan in found:
        assert not set(by_row[plan.rows["val"]]) & set(by_row[plan.rows["train"]])
        assert abs(len(plan.rows["val"]) - 203 / 5) <= 3
    with_test = [plans.build(store, data(split={"folds": 3, "fold": k}), seed=0) for k in range(3)]
    held = np.concatenate([with_test[0].rows["test"], *[p.rows["val"] for p in with_test]])
    assert sorted(held) == sorted(store.index["row"])


def test_a_fold_that_is_none_and_two_vals_are_refused():
    with pytest.raises(UserError, match=r"data.split: fold: 5 is none of the 5 folds"):
        data(split={"folds": 5, "fold": 5})
    with pytest.raises(UserError, match="official and folds both say what val is"):
        data(split={"folds": 5, "val": "official"})
    with pytest.raises(UserError, match="cannot be split into 5 folds and test 0"):
        plans.build(fake_store(4), data(split={"folds": 5, "fold": 4, "test": 0}), seed=0)


def test_official_test_is_test_and_val_is_cut_from_the_rest_by_patient():
    store = fake_store(300)
    official = store.index["patient"].map(lambda p: int(p[1:]) % 4 == 0)
    store.index["split"] = np.where(official, "test", "train")
    plan = plans.build(store, data(split={"test": "official", "val": 0.1}), seed=0)
    assert set(plan.rows["test"]) == set(store.index.loc[official, "row"])
    assert abs(len(plan.rows["val"]) - 30) <= 2
    by_row = store.index.set_index("row")["patient"]
    assert not set(by_row[plan.rows["val"]]) & set(by_row[plan.rows["train"]])


def test_official_val_without_test():
    store = fake_store(100)
    store.index["split"] = ["val" if i >= 80 else "train" for i in range(100)]
    plan = plans.build(store, data(split={"val": "official", "test": 0}), seed=0)
    assert len(plan.rows["val"]) == 20 and len(plan.rows["train"]) == 80 and len(plan.rows["test"]) == 0
    with pytest.raises(
        UserError, match=r"test: official, but the dataset has no official test rows \(it lists train, val\)"
    ):
        plans.build(store, data(split={"test": "official"}), seed=0)
    assert any("has its own split, which is not used for val" in w for w in plans.build(store, data(), seed=0).warnings)


def test_a_part_without_rows_is_an_error():
    with pytest.raises(UserError, match="val has no rows: 4 rows in 2 groups"):
        plans.build(fake_store(4), data(), seed=0)


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.875, 0.125), (0.2,) * 5])
def test_patients_of_several_images_and_labels_leave_every_label_its_share(shares):
    """Nearly every group is of a kind of its own here, so that all are placed one by one."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 6, 400)
    group = np.repeat(np.arange(400), sizes)
    often = rng.random((400, 6)) < [0.5, 0.4, 0.35, 0.25, 0.15, 0.08]  # a finding stays with its patient
    positive = often[group] & (rng.random((len(group), 6)) < 0.8)

    def worst(part):
        return max(np.abs(positive[part == p].mean(axis=0) - positive.mean(axis=0)).max() for p in range(len(shares)))

    repeats = np.median([worst(rng.choice(len(shares), 400, p=shares)[group]) for _ in range(25)])
    for seed in range(10):
        part = split.stratify(group, positive, shares, rng=np.random.default_rng(seed))
        assert all(abs((part == p).mean() - share) < 0.01 for p, share in enumerate(shares))
        assert worst(part) < repeats / 2, seed
