"""Splits: no patient in two parts, parts of the requested size, and rare labels in every part that they can reach."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from cxr_ray import config as cfg
from cxr_ray.data import plan as plans
from cxr_ray.data import split
from cxr_ray.errors import UserError
from tests.fakes.store import fake_store


def data(**hyperparameters) -> cfg.Data:
    return cfg.validate({"data": hyperparameters}).data


def test_groups_are_patients_and_unnamed_rows_are_groups_of_their_own():
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
def test_a_stratified_split_keeps_groups_together_meets_shares_and_spreads_rare_labels(cohort, shares):
    group, positive, seed = cohort
    part = split.stratify(group, positive, shares, rng=np.random.default_rng(seed))
    assert set(part) <= set(range(len(shares)))
    table = pd.DataFrame({"group": group, "part": part})
    assert (table.groupby("group")["part"].nunique() == 1).all()
    counts = np.bincount(part, minlength=len(shares))
    assert np.abs(counts - np.multiply(shares, len(group))).max() <= 12  # a few groups of at most 4 rows
    rare = int(np.argmin([len(set(group[p])) or 10**9 for p in positive.T]))
    positive_groups = len(set(group[positive[:, rare]]))
    reached = len(set(part[positive[:, rare]]))
    assert reached >= min(positive_groups, len(shares)), (positive_groups, reached)


def slow_stratify(
    group: np.ndarray, positive: np.ndarray, shares: tuple[float, ...], rng: np.random.Generator
) -> list[int]:
    """`stratify` by its docstring, one group after the other. A size is (rows, positives of each label)."""
    names = sorted(set(group.tolist()))
    sizes = [((group == name).sum(), *positive[group == name].sum(axis=0)) for name in names]
    part: dict[int, int] = {}
    shuffled = rng.permutation(len(names)).tolist()
    for size in set(sizes):  # equal groups: each part gets its share, rounded down
        equal = [g for g in shuffled if sizes[g] == size]
        for p, share in enumerate(shares):
            for _ in range(int(sizes.count(size) * share + 1e-9)):
                part[equal.pop(0)] = p
    remaining = rng.permutation([g for g in range(len(names)) if g not in part]).astype(int).tolist()
    total = [max(1, sum(size[k] for size in sizes)) for k in range(len(sizes[0]))]
    usable = [p for p, share in enumerate(shares) if share > 0]
    count = {p: [sum(sizes[g][k] for g in part if part[g] == p) for k in range(len(total))] for p in usable}
    fill = {p: [n / (shares[p] * whole) for n, whole in zip(count[p], total, strict=True)] for p in usable}
    by_rarity = sorted(range(1, len(total)), key=lambda k: sum(size[k] > 0 for size in sizes))
    for k in [*by_rarity, 0]:
        todo = sorted([g for g in remaining if g not in part and sizes[g][k] > 0], key=lambda g: -sizes[g][k])
        without = [p for p in usable if k and not count[p][k]]
        for done, g in enumerate(todo):
            weight = {one: n / total[one] for one, n in enumerate(sizes[g]) if n}
            must = without and len(todo) - done <= len(without)
            score = {p: sum(w * (fill[p][one] + w / shares[p]) for one, w in weight.items()) for p in usable}
            best = part[g] = min(without if must else usable, key=lambda p: score[p])
            without = [p for p in without if p != best]
            for one, w in weight.items():
                fill[best][one] += w / shares[best]
                count[best][one] += sizes[g][one]
    return [part[names.index(name)] for name in group.tolist()]


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.sampled_from([(0.8, 0.2), (0.2,) * 5, (0.7, 0.1, 0.2), (1.0, 0.0), (0.0, 1.0)]))
def test_a_stratified_split_equals_its_slow_definition(cohort, shares):
    group, positive, seed = cohort
    found = split.stratify(group * 3 + 5, positive, shares, rng=np.random.default_rng(seed))
    assert found.tolist() == slow_stratify(group, positive, shares, np.random.default_rng(seed))


def test_a_stratified_split_is_closer_than_a_random_one():
    """30 splits of 300 patients into 80% and 20%: every label's positives in the smaller part are its share, rounded up or down.
    The mean error of a random split is that of the hypergeometric distribution."""
    positive = np.random.default_rng(0).random((300, 2)) < [0.4, 0.05]
    counts = positive.sum(axis=0)
    error = np.zeros((30, 2))
    for seed in range(30):
        part = split.stratify(np.arange(300), positive, [0.8, 0.2], rng=np.random.default_rng(seed))
        assert (part == 1).sum() == 60
        error[seed] = np.abs(positive[part == 1].sum(axis=0) - 0.2 * counts)
    for label, count in enumerate(counts):
        possible = np.arange(count + 1)
        random_error = float((hypergeom(300, count, 60).pmf(possible) * np.abs(possible - 0.2 * count)).sum())
        assert error[:, label].max() < 1 < random_error, (label, error[:, label].max(), random_error)
    assert error[:, 1].max() / 60 < 0.01  # of the label that 4% have: less than 1 point from its frequency


def test_the_test_part_does_not_depend_on_val_folds_or_labels():
    store = fake_store(200)
    base = plans.build(store, data(), seed=0).rows["test"]
    for hyperparameters in (
        {"split": {"val": 0.3}},
        {"split": {"folds": 4, "fold": 2}},
        {"labels": ["Mass"]},
        {"uncertain": "ones"},
    ):
        assert np.array_equal(plans.build(store, data(**hyperparameters), seed=0).rows["test"], base)


def test_every_row_is_in_val_of_one_fold_by_patient():
    store = fake_store(203, images_a_patient=3)
    found = [plans.build(store, data(split={"folds": 5, "fold": k, "test": 0}), seed=0) for k in range(5)]
    assert sorted(np.concatenate([p.rows["val"] for p in found])) == sorted(store.index["row"])
    by_row = store.index.set_index("row")["patient"]
    for plan in found:
        assert not set(by_row[plan.rows["val"]]) & set(by_row[plan.rows["train"]])
        assert abs(len(plan.rows["val"]) - 203 / 5) <= 3
    with_test = [plans.build(store, data(split={"folds": 3, "fold": k}), seed=0) for k in range(3)]
    rows = np.concatenate([with_test[0].rows["test"], *[p.rows["val"] for p in with_test]])
    assert sorted(rows) == sorted(store.index["row"])


def test_an_unknown_fold_and_two_definitions_of_val_are_refused():
    with pytest.raises(UserError, match=r"data.split: fold: 5 is not one of the 5 folds, which are numbered from 0"):
        data(split={"folds": 5, "fold": 5})
    with pytest.raises(UserError, match="official and folds both define val; remove one"):
        data(split={"folds": 5, "val": "official"})
    with pytest.raises(UserError, match="cannot be split into 5 folds and test 0"):
        plans.build(fake_store(4), data(split={"folds": 5, "fold": 4, "test": 0}), seed=0)


def test_official_test_rows_are_test_and_val_is_split_from_the_rest_by_patient():
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
    assert any(
        "has an official split, which is not used for val" in w for w in plans.build(store, data(), seed=0).warnings
    )


def test_no_official_list_that_is_used_is_reported_as_unused():
    store = fake_store(100)
    store.index["split"] = ["val" if i >= 80 else "test" if i >= 60 else "train" for i in range(100)]
    for hyperparameters, unused in (
        ({"val": "official", "test": "official"}, []),
        ({"test": "official"}, ["val; data.split.val: official would use it"]),
        ({}, ["val and test; data.split.val: official and data.split.test: official would use it"]),
    ):
        warnings = plans.build(store, data(split=hyperparameters), seed=0).warnings
        assert [w.partition("not used for ")[2] for w in warnings if "official split" in w] == unused


def test_a_part_without_rows_is_an_error():
    store = fake_store(10)
    store.index["split"] = "test"
    with pytest.raises(UserError, match="val has no rows"):
        plans.build(store, data(split={"test": "official", "val": 0.1}), seed=0)
    with pytest.raises(UserError, match="train has no rows"):
        plans.build(store, data(split={"test": "official", "val": 0}), seed=0)
    with pytest.raises(UserError, match="val has no rows: 4 rows in 2 groups"):
        plans.build(fake_store(4), data(), seed=0)


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.875, 0.125), (0.2,) * 5])
def test_every_part_gets_its_share_of_every_label_with_several_images_per_patient(shares):
    """Here nearly all groups differ, so they are placed one by one."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 6, 400)
    group = np.repeat(np.arange(400), sizes)
    patient_has = rng.random((400, 6)) < [0.5, 0.4, 0.35, 0.25, 0.15, 0.08]  # findings belong to patients
    positive = patient_has[group] & (rng.random((len(group), 6)) < 0.8)

    def worst(part):
        return max(np.abs(positive[part == p].mean(axis=0) - positive.mean(axis=0)).max() for p in range(len(shares)))

    random_worst = np.median([worst(rng.choice(len(shares), 400, p=shares)[group]) for _ in range(25)])
    for seed in range(10):
        part = split.stratify(group, positive, shares, rng=np.random.default_rng(seed))
        assert all(abs((part == p).mean() - share) < 0.01 for p, share in enumerate(shares))
        assert worst(part) < random_worst / 2, seed


def test_the_positives_of_rare_labels_are_what_is_spread():
    """Every row has a vector of labels of its own, so that only the order of the labels, rare positives first, spreads them."""
    rng = np.random.default_rng(0)
    labels = [f"label {k}" for k in range(12)]
    positive = rng.random((120, 12)) < np.linspace(0.02, 0.5, 12)
    positive = np.unique(positive, axis=0)
    table = pd.DataFrame(positive.astype(np.float32), columns=labels)
    part = split.split(table, np.arange(len(table)), data(split={"test": 0.0, "val": 0.5}).split, labels=labels)
    in_val, everywhere = positive[part == "val"].sum(axis=0), positive.sum(axis=0)
    assert (np.abs(in_val - everywhere / 2) <= 1).all(), (in_val, everywhere)
