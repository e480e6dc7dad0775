"""The plan against slow definitions: which rows, in which part, how often, with which weight."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray import config as cfg
from cxr_ray.data import plan as plans
from cxr_ray.errors import UserError
from cxr_ray.labels import Filter
from tests.fakes.store import fake_store


def data(**hyperparameters) -> cfg.Data:
    return cfg.validate({"data": hyperparameters}).data


def test_every_row_is_in_one_part_and_no_patient_in_two():
    store = fake_store(400, images_a_patient=3)
    plan = plans.build(store, data(), seed=0)
    rows = np.concatenate([plan.rows[p] for p in plans.PARTS])
    assert sorted(rows) == sorted(store.index["row"])
    patients = {p: set(store.index.set_index("row").loc[plan.rows[p], "patient"]) for p in plans.PARTS}
    assert not (
        patients["train"] & patients["val"]
        or patients["train"] & patients["test"]
        or patients["val"] & patients["test"]
    )
    assert abs(len(plan.rows["val"]) - 40) <= 3 and abs(len(plan.rows["test"]) - 80) <= 3


def test_the_split_depends_on_its_own_seed_only():
    store = fake_store(200)
    one, other = plans.build(store, data(), seed=0), plans.build(store, data(), seed=99)
    moved = plans.build(store, data(split={"seed": 1}), seed=0)
    assert all(np.array_equal(one.rows[p], other.rows[p]) for p in plans.PARTS)
    assert not np.array_equal(one.rows["test"], moved.rows["test"])


def test_images_without_a_patient_are_split_one_by_one_with_a_warning():
    store = fake_store(50)
    store.index["patient"] = None
    plan = plans.build(store, data(), seed=0)
    assert any("50 of 50 images have no patient" in w for w in plan.warnings)
    store = fake_store(50)
    store.index.loc[store.index.index[:7], "patient"] = None
    assert any("7 of 50 images have no patient" in w for w in plans.build(store, data(), seed=0).warnings)
    assert sum(len(r) for r in plan.rows.values()) == 50


def test_a_limit_keeps_patients_together():
    store = fake_store(300, images_a_patient=4)
    plan = plans.build(store, data(limit=101), seed=3)
    patients = store.index.set_index("row").loc[np.concatenate(list(plan.rows.values())), "patient"]
    assert 100 <= len(patients) <= 101 + 3 * 3  # each part ends with a complete patient
    assert set(Counter(patients).values()) == {4}
    shares = {part: len(rows) / len(patients) for part, rows in plan.rows.items()}
    assert shares == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.05)


@pytest.mark.parametrize(
    "split", [{}, {"folds": 3, "fold": 1}, {"by": "image"}, {"val": "official", "test": "official"}]
)
def test_a_limit_moves_no_row_to_another_part(split):
    """Otherwise a winner that was selected on limited rows and refitted on all rows would be tested on rows that selected it."""
    store = fake_store(400, images_a_patient=3)
    store.index["split"] = np.repeat(["test", "val", "train", "train"], 102)[:400]  # complete patients
    full = plans.build(store, data(split=split), seed=0)
    for limit in (5, 60, 399, 400):
        some = plans.build(store, data(split=split, limit=limit), seed=0)
        for part in plans.PARTS:
            assert len(some.rows[part]) and set(some.rows[part]) <= set(full.rows[part])
    assert sum(len(rows) for rows in plans.build(store, data(split=split, limit=400), seed=0).rows.values()) == 400


def test_a_limit_selects_the_same_rows_for_every_run_seed_and_fold():
    """Trials with different seeds are evaluated on one val part, and folds share one test part."""
    store = fake_store(300)
    one, other = (plans.build(store, data(limit=50), seed=seed) for seed in (0, 1))
    moved = plans.build(store, data(limit=50, split={"seed": 1}), seed=0)
    assert all(np.array_equal(one.rows[p], other.rows[p]) for p in plans.PARTS)
    assert not np.array_equal(one.rows["val"], moved.rows["val"])
    folds = [plans.build(store, data(limit=50, split={"folds": 3, "fold": k}), seed=0) for k in range(3)]
    assert all(np.array_equal(plan.rows["test"], one.rows["test"]) for plan in folds)


def test_filters_are_counted_in_order_and_may_be_turned_off():
    store = fake_store(100)
    store.declare(filters=(Filter(name="AP", query="view == 'AP'"), Filter(name="women", query="sex == 'F'")))
    plan = plans.build(store, data(split={"val": 0, "test": 0}), seed=0)
    ap = store.index["view"] == "AP"
    assert plan.dropped == {"AP": int((~ap).sum()), "women": int((ap & (store.index["sex"] != "F")).sum())}
    assert len(plans.build(store, data(filters="none", split={"val": 0, "test": 0}), seed=0).rows["train"]) == 100
    own = plans.build(store, data(filters=["sex == 'M'"], split={"val": 0, "test": 0}), seed=0)
    assert len(own.rows["train"]) == int((store.index["sex"] == "M").sum())


def test_the_error_for_no_rows_counts_what_each_filter_dropped():
    store = fake_store(10)
    with pytest.raises(UserError, match=r"no row of 10 is left after the filters \(view == 'XX': 10\)"):
        plans.build(store, data(filters=["view == 'XX'"]), seed=0)


def test_train_has_the_training_policy_and_test_the_evaluation_policy():
    store = fake_store(200, uncertain=0.2, unknown=0.2)
    plan = plans.build(store, data(uncertain={"Edema": "ones"}, blank="ignore"), seed=0)
    raw = store.index.set_index("row")[list(store.labels)]
    train, test = raw.loc[plan.rows["train"]].to_numpy(), raw.loc[plan.rows["test"]].to_numpy()
    for i, j in np.ndindex(*train.shape):
        expected = {1.0: 1.0, 0.0: 0.0, -1.0: 1.0 if store.labels[j] == "Edema" else 0.0}.get(
            float(train[i, j]), np.nan
        )
        assert np.array_equal(plan.truth["train"][i, j], np.float32(expected), equal_nan=True)
    for i, j in np.ndindex(*test.shape):
        expected = {1.0: 1.0, 0.0: 0.0}.get(float(test[i, j]), np.nan)
        assert np.array_equal(plan.truth["test"][i, j], np.float32(expected), equal_nan=True)


def test_evaluation_targets_do_not_depend_on_the_training_policy():
    store = fake_store(200, uncertain=0.3)
    plans_made = [plans.build(store, data(uncertain=u), seed=0) for u in ("zeros", "ones", "ignore")]
    for part in ("val", "test"):
        for plan in plans_made[1:]:
            np.testing.assert_array_equal(plan.truth[part], plans_made[0].truth[part])
    assert not np.array_equal(plans_made[0].truth["train"], plans_made[1].truth["train"])


def test_a_label_without_positives_in_train_is_a_warning_and_no_positives_at_all_an_error():
    store = fake_store(80)
    store.index["Mass"] = 0.0
    plan = plans.build(store, data(), seed=0, pos_weight_power=1.0)
    assert any(w.startswith("Mass has no positive in train") for w in plan.warnings)
    assert plan.pos_weight[plan.labels.index("Mass")] == 1.0
    store.index[list(store.labels)] = 0.0
    with pytest.raises(UserError, match="no label has a positive in train"):
        plans.build(store, data(), seed=0)


def test_labels_and_groups():
    store = fake_store(80)
    store.declare(groups={"two": ("Mass", "Edema")})
    assert plans.build(store, data(labels="two"), seed=0).labels == ("Edema", "Mass")
    assert plans.build(store, data(labels=["Effusion"]), seed=0).task == "binary"
    with pytest.raises(UserError, match="unknown label 'Edma'; did you mean 'Edema'"):
        plans.build(store, data(labels=["Edma"]), seed=0)
    store.declare(default_labels=("Edema", "Effusion"))
    assert plans.build(store, data(), seed=0).labels == ("Edema", "Effusion")
    assert plans.build(store, data(filters="none"), seed=0).labels == store.labels


def test_user_groups_can_be_used_wherever_labels_can():
    store = fake_store(200, uncertain=0.3)
    store.declare(groups={"two": ("Mass", "Edema")})
    hyperparameters = {
        "groups": {"mine": ["two"], "rest": ["Effusion"]},
        "uncertain": {"mine": "ones", "rest": "ignore"},
    }
    plan = plans.build(store, data(labels=["mine", "rest"], **hyperparameters), seed=0)
    assert plan.groups == {"two": ("Mass", "Edema"), "mine": ("Mass", "Edema"), "rest": ("Effusion",)}
    by_name = plans.build(store, data(uncertain={"Edema": "ones", "Mass": "ones", "Effusion": "ignore"}), seed=0)
    np.testing.assert_array_equal(plan.truth["train"], by_name.truth["train"])
    fewer = plans.build(
        store, data(labels="mine", **hyperparameters), seed=0
    )  # a policy of a label that is not trained on
    assert fewer.labels == ("Edema", "Mass")
    with pytest.raises(UserError, match=r"unknown label 'mien' in data\.uncertain; did you mean 'mine'"):
        plans.build(store, data(**hyperparameters | {"uncertain": {"mien": "ones"}}), seed=0)


def test_smooth_targets_are_only_in_train_and_count_as_hard_ones():
    store = fake_store(400, uncertain=0.3, unknown=0.1)
    hyperparameters = {"blank": "ignore", "oversample_min_count": 30}
    smooth = plans.build(
        store,
        data(uncertain={"Edema": "smooth", "Mass": "smooth_zeros"}, **hyperparameters),
        seed=0,
        pos_weight_power=1.0,
    )
    hard = plans.build(
        store, data(uncertain={"Edema": "ones", "Mass": "zeros"}, **hyperparameters), seed=0, pos_weight_power=1.0
    )
    between = (smooth.truth["train"] > 0) & (smooth.truth["train"] < 1)
    raw = store.index.set_index("row").loc[smooth.rows["train"], list(store.labels)].to_numpy()
    np.testing.assert_array_equal(between, (raw == -1) & np.array([True, True, False]))
    np.testing.assert_array_equal(smooth.truth["train"][~between], hard.truth["train"][~between])
    np.testing.assert_array_equal(smooth.pos_weight, hard.pos_weight)  # computed from the rounded targets
    np.testing.assert_array_equal(smooth.repeats, hard.repeats)
    for part in ("val", "test"):
        np.testing.assert_array_equal(smooth.truth[part], hard.truth[part])
    other = plans.build(store, data(uncertain="smooth", split={"seed": 3}, **hyperparameters), seed=0)
    first = dict(zip(smooth.rows["train"].tolist(), smooth.truth["train"][:, 0], strict=True))
    for row, value in zip(other.rows["train"].tolist(), other.truth["train"][:, 0], strict=True):
        if row in first:  # another split changes no smooth target
            assert np.array_equal(first[row], value, equal_nan=True)


def test_a_label_with_only_uncertain_rows_has_a_weight():
    store = fake_store(90)
    store.index["Mass"] = np.where(np.arange(90) % 3 == 0, -1.0, 0.0)
    plan = plans.build(store, data(uncertain="smooth"), seed=0, pos_weight_power=1.0)
    train = store.index.set_index("row").loc[plan.rows["train"], "Mass"]
    assert plan.pos_weight[1] == pytest.approx((train == 0).sum() / (train == -1).sum())
    zeros = plans.build(store, data(uncertain="smooth_zeros"), seed=0, pos_weight_power=1.0)
    assert zeros.pos_weight[1] == 1 and any(w.startswith("Mass has no positive in train") for w in zeros.warnings)


def test_multiclass_needs_one_class_per_row():
    assert plans.build(fake_store(60, task="multiclass"), data(), seed=0).task == "multiclass"
    with pytest.raises(UserError, match="do not have exactly one positive label"):
        plans.build(fake_store(60), data(task="multiclass"), seed=0)


@pytest.mark.parametrize("labels", [("Normal", "Pneumonia"), ("Normal", "Viral", "Bacterial")])
def test_multiclass_takes_two_labels_or_more(labels):
    store = fake_store(80, labels, task="multiclass")
    assert plans.build(store, data(), seed=0).task == "multiclass"
    assert plans.build(store, data(task="multiclass"), seed=0).labels == labels
    with pytest.raises(UserError, match="multiclass takes two labels or more"):
        plans.build(store, data(task="multiclass", labels=["Normal"]), seed=0)


def test_a_selection_of_classes_is_a_multilabel_task():
    store = fake_store(80, task="multiclass")
    assert plans.build(store, data(labels=["Edema", "Mass"]), seed=0).task == "multilabel"


def test_binary_takes_one_label():
    assert plans.build(fake_store(80), data(task="binary", labels=["Mass"]), seed=0).task == "binary"
    with pytest.raises(UserError, match=r"binary takes one label, and 2 are selected \(Edema, Mass\)"):
        plans.build(fake_store(80), data(task="binary", labels=["Edema", "Mass"]), seed=0)


def test_balance_warnings_name_labels_unused_labels_and_features_in_either_direction():
    store = fake_store(1000, images_a_patient=1)
    part = np.array(["train"] * 500 + ["val"] * 500, dtype=object)
    table = store.index.copy()
    table["Edema"] = [1.0] * 100 + [0.0] * 400 + [1.0] * 120 + [0.0] * 380  # 20% against 24%
    table["Mass"] = [1.0] * 100 + [0.0] * 400 + [1.0] * 80 + [0.0] * 420  # 20% against 16%
    table["Effusion"] = [1.0] * 100 + [0.0] * 400 + [1.0] * 109 + [0.0] * 391  # 1.8 points: no warning
    table["view"] = ["AP"] * 300 + ["PA"] * 200 + ["AP"] * 200 + ["PA"] * 300
    table["sex"] = ["F", "M"] * 500
    assert plans.balance_warnings(table, part, store.info, ["Edema", "Effusion"], limit=0.02) == [
        "Edema: 20.0% of train, 24.0% of val (+4.0 points)",
        "Mass (not trained on): 20.0% of train, 16.0% of val (-4.0 points)",
        "view AP: 60.0% of train, 40.0% of val (-20.0 points)",
        "view PA: 40.0% of train, 60.0% of val (+20.0 points)",
    ]


def test_several_unbalanced_shares_are_one_warning():
    store = fake_store(40, images_a_patient=1)
    store.index["split"] = ["train"] * 20 + ["val"] * 20
    store.index["view"], store.index["sex"] = ["AP"] * 20 + ["PA"] * 20, "F"
    store.index[["Edema", "Mass", "Effusion"]] = np.tile([[1.0, 1, 1], [0, 0, 0]], (20, 1))
    official = {"val": "official", "test": 0}
    (found,) = [w for w in plans.build(store, data(split=official), seed=0).warnings if "points" in w]
    assert found == (
        "2 shares differ between train and val by over 2 points: view AP: 100.0% of train, 0.0% of val (-100.0 points); "
        "view PA: 0.0% of train, 100.0% of val (+100.0 points)"
    )
    store.index["view"] = ["AP"] * 40
    store.index.loc[:19, "Edema"] = 1.0
    (found,) = [w for w in plans.build(store, data(split=official), seed=0).warnings if "points" in w]
    assert found == "Edema: 100.0% of train, 50.0% of val (-50.0 points)"


@pytest.mark.parametrize(("limit", "lines"), [(0.25, 0), (0.2499, 1)])
def test_a_difference_equal_to_the_limit_is_no_warning(limit, lines):
    store = fake_store(16, images_a_patient=1)
    store.declare(features=())
    table = store.index.assign(Mass=0.0, Effusion=0.0, Edema=[1.0] * 4 + [0.0] * 4 + [1.0] * 2 + [0.0] * 6)
    part = np.array(["train"] * 8 + ["val"] * 8, dtype=object)
    assert len(plans.balance_warnings(table, part, store.info, list(store.labels), limit=limit)) == lines
    assert plans.balance_warnings(table, np.array(["train"] * 16, dtype=object), store.info, ["Edema"], limit=0.1) == []


@pytest.mark.parametrize(("categories", "checked"), [(20, True), (21, False)])
def test_features_of_more_than_20_values_are_not_checked_for_balance(categories, checked):
    store = fake_store(100)
    store.declare(features=("age",))
    part = np.array(["train"] * 50 + ["val"] * 50, dtype=object)
    table = store.index.assign(age=np.where(part == "train", 0, 1 + np.arange(100) % (categories - 1)))
    found = plans.balance_warnings(table, part, store.info, list(store.labels), limit=0.5)
    assert [line.split(":")[0] for line in found] == (["age 0"] if checked else [])


targets = (
    st.integers(1, 60)
    .flatmap(lambda n: st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, np.nan])] * 3), min_size=n, max_size=n))
    .map(lambda rows: np.array(rows, dtype=np.float32).reshape(-1, 3))
)


@settings(max_examples=60, deadline=None)
@given(targets, st.integers(0, 20), st.integers(0, 5))
def test_oversampling_matches_its_definition(truth, min_count, seed):
    repeats = plans.oversample(truth, min_count=min_count, rng=np.random.default_rng(seed))
    vectors = [tuple("?" if np.isnan(v) else v for v in row) for row in truth]
    for vector, n in Counter(vectors).items():
        here = [int(d) for d, v in zip(repeats, vectors, strict=True) if v == vector]
        assert sum(here) == max(n, min_count)
        assert max(here) - min(here) <= 1  # equal numbers of copies, the remainder without replacement


@settings(max_examples=60, deadline=None)
@given(targets)
def test_vectors_and_weights_match_their_definition(truth):
    number = plans.label_vectors(truth)
    keys = [tuple("?" if np.isnan(v) else v for v in row) for row in truth]
    assert len(set(zip(number, keys, strict=True))) == len(set(keys)) == len(set(number))
    for power in (0.0, 0.5, 1.0):
        weights = plans.positive_weights(truth, power=power)
        for j in range(3):
            p, n = int((truth[:, j] == 1).sum()), int((truth[:, j] == 0).sum())
            assert weights[j] == pytest.approx((n / p) ** power if p and n else 1.0, rel=1e-6)


@pytest.mark.parametrize("labels", [40, 41, 60])
def test_vectors_of_many_labels_do_not_collide(labels):
    """The digits of 2**64 in base 3 need 41 labels: in 64 bits they would equal a row of zeros."""
    number, digits = 2**64, []
    for _ in range(labels):
        number, digit = divmod(number, 3)
        digits.append([0.0, 1.0, np.nan][digit])
    truth = np.array([[0.0] * labels, digits, [0.0] * labels, [1.0] * labels, [np.nan] * labels], dtype=np.float32)
    found = plans.label_vectors(truth)
    assert found[0] == found[2] and len(set(found.tolist())) == 4
    single = np.concatenate([np.eye(labels), np.where(np.eye(labels) > 0, np.nan, 0), np.zeros((1, labels))])
    assert len(set(plans.label_vectors(single.astype(np.float32)).tolist())) == 2 * labels + 1


def test_positives_have_weight_1_and_rows_are_used_once_by_default():
    store = fake_store(100)
    plan = plans.build(store, data(), seed=0)
    restored = plans.restore(store, data(), plan.table(), labels=plan.labels, task=plan.task, seed=0)
    for each in (plan, restored):
        assert each.pos_weight.tolist() == [1, 1, 1] and set(each.repeats.tolist()) == {1}
    assert plan.table().index.tolist() == list(range(100)) and "oversampling" not in plan.summary()


def test_weights_come_from_rows_before_oversampling():
    store = fake_store(300)
    plain = plans.build(store, data(), seed=0, pos_weight_power=1.0)
    oversampled = plans.build(store, data(oversample_min_count=100), seed=0, pos_weight_power=1.0)
    np.testing.assert_array_equal(plain.pos_weight, oversampled.pos_weight)
    extra = oversampled.repeats.sum() - plain.repeats.sum()
    assert extra > 0 and plain.repeats.sum() == len(plain.rows["train"])
    table = oversampled.table()
    assert set(table.loc[table["part"] != "train", "drawn"]) == {1}
    assert oversampled.summary() == f"{plain.summary()} (+{extra:,} by oversampling train)"


# ---- size, and plans of earlier runs


@pytest.mark.slow
def test_two_hundred_thousand_rows_of_twelve_labels():
    rng = np.random.default_rng(0)
    n = 200_000
    store = fake_store(10)
    labels = [f"L{i}" for i in range(12)]
    store.index = pd.concat(
        [
            pd.DataFrame(
                {
                    "row": np.arange(n),
                    "patient": rng.integers(0, n // 3, n).astype(str),
                    "view": "AP",
                    "sex": "F",
                    "split": None,
                }
            ),
            pd.DataFrame((rng.random((n, 12)) < 0.1).astype(np.float32), columns=labels),
        ],
        axis=1,
    )
    store.declare(labels=tuple(labels), default_labels=tuple(labels))
    plan = plans.build(store, data(oversample_min_count=50), seed=0, pos_weight_power=1.0)
    assert sum(len(r) for r in plan.rows.values()) == n


def test_a_plan_is_restored_from_its_table():
    store = fake_store(200, unknown=0.1, uncertain=0.2)
    hyperparameters = data(uncertain={"Mass": "ones"}, oversample_min_count=9)
    plan = plans.build(store, hyperparameters, seed=4, pos_weight_power=0.5)
    restored = plans.restore(
        store, hyperparameters, plan.table(), labels=plan.labels, task=plan.task, seed=0, pos_weight_power=0.5
    )
    for part in plans.PARTS:
        np.testing.assert_array_equal(restored.rows[part], plan.rows[part])
        np.testing.assert_array_equal(restored.truth[part], plan.truth[part])
    np.testing.assert_array_equal(restored.repeats, plan.repeats)
    np.testing.assert_array_equal(restored.pos_weight, plan.pos_weight)
    with pytest.raises(UserError, match="the store has no 999999"):
        plans.restore(
            store,
            hyperparameters,
            plan.table().replace({"row": {3: 999999}}),
            labels=plan.labels,
            task=plan.task,
            seed=0,
        )
    with pytest.raises(UserError, match="the store has no 'Gone'"):
        plans.restore(store, hyperparameters, plan.table(), labels=["Gone"], task=plan.task, seed=0)


def test_images_of_one_gray_are_warned_of_and_a_filter_drops_them():
    store = fake_store(60)
    store.index["variance"] = np.where(np.isin(np.arange(60), [4, 17, 40]), 0.0, 9.0)
    blank = store.index.loc[store.index["variance"] == 0, "row"].tolist()
    plan = plans.build(store, data(), seed=0)
    warned = [w for w in plan.warnings if "one gray" in w]
    assert len(warned) == 1 and warned[0].startswith(
        f"3 of 60 images are one gray in all pixels (rows {', '.join(map(str, blank))})"
    )
    advice = json.loads(warned[0].partition("data.filters: ")[2])
    clean = plans.build(store, data(filters=advice), seed=0)
    assert clean.dropped["variance > 0"] == 3 and not any("one gray" in w for w in clean.warnings)
    assert not set(blank) & set(np.concatenate(list(clean.rows.values())).tolist())
