"""Leaks against loops over all pairs of rows; what a plan does about them; a copy found by its look."""

import io
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_ray import config as cfg
from cxr_ray.data import leakage, store_writer
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.imaging import statistics
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.phash import perceptual_hash
from cxr_ray.training.setup import prepare
from tests.fakes.store import FakeStore, fake_store

PARTS = np.array(["train", "val", "test"], dtype=object)


def data(**hyperparameters) -> cfg.Data:
    return cfg.validate({"data": hyperparameters}).data


@st.composite
def tables(draw) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of few patients and few pictures, some without either, in three parts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(0, 24))
    table = pd.DataFrame(
        {
            "row": np.sort(rng.choice(200, rows, replace=False)),
            "patient": [None if rng.random() < 0.2 else f"p{rng.integers(15)}" for _ in range(rows)],
            "pixels_sha256": [f"x{rng.integers(40)}" for _ in range(rows)],
        }
    )
    table["variance"] = (
        table["pixels_sha256"].map(lambda name: 0.0 if name in ("x0", "x1", "x2") else 9.0).astype(float)
    )
    return table, rng.choice(PARTS, rows)


def shares(table: pd.DataFrame, a: int, b: int, what: str) -> bool:
    """Whether two rows are of one patient, or one picture (of more than one gray value)."""
    if what == "patient":
        return table["patient"][a] is not None and table["patient"][a] == table["patient"][b]
    return table["pixels_sha256"][a] == table["pixels_sha256"][b] and table["variance"][a] > 0


@given(tables())
@settings(max_examples=60, deadline=None)
def test_what_stands_in_two_parts_is_found_and_leaving_it_out_mends_it(given_: tuple[pd.DataFrame, np.ndarray]) -> None:
    table, part = given_
    found = leakage.between(table, part, by_patient=True)
    position = {row: at for at, row in enumerate(table["row"])}
    for pair in found.itertuples():
        a, b = position[pair.row], position[pair.other]
        assert shares(table, a, b, pair.what) and part[a] == pair.part != pair.other_part == part[b]
        assert leakage.PARTS.index(pair.part) < leakage.PARTS.index(pair.other_part)
    crossing = {what: set() for what in ("patient", "picture")}
    column = {"patient": "patient", "picture": "pixels_sha256"}
    for what, (a, b) in itertools.product(crossing, itertools.combinations(range(len(table)), 2)):
        if part[a] != part[b] and shares(table, a, b, what):
            crossing[what].add(table[column[what]][a])
    for what, names in crossing.items():
        told = found.loc[found["what"] == what, "row"].map(position).map(table[column[what]])
        assert set(told) == names
    out = leakage.leaking(table, part, by_patient=True)
    assert not out[part == "test"].any() and out.any() == bool(len(found))
    kept = table[~out].reset_index(drop=True)
    assert leakage.between(kept, part[~out], by_patient=True).empty
    # and no more than needed: what is left out shares something with an earlier part
    for at in np.flatnonzero(out):
        earlier = leakage.PARTS[: leakage.PARTS.index(part[at])]
        assert any(part[b] in earlier and any(shares(table, at, b, w) for w in crossing) for b in range(len(table)))


@given(tables())
@settings(max_examples=50, deadline=None)
def test_groups_that_hold_one_picture_are_one(given_: tuple[pd.DataFrame, np.ndarray]) -> None:
    table, _ = given_
    group = np.random.default_rng(len(table)).integers(0, 12, len(table))
    joined = leakage.together(group, table)
    slow = list(range(len(table)))  # by spreading the smallest number until nothing changes
    changed = True
    while changed:
        changed = False
        for a, b in itertools.combinations(range(len(table)), 2):
            if (group[a] == group[b] or shares(table, a, b, "picture")) and slow[a] != slow[b]:
                slow[a] = slow[b] = min(slow[a], slow[b])
                changed = True
    for a, b in itertools.combinations(range(len(table)), 2):
        assert (joined[a] == joined[b]) == (slow[a] == slow[b])


@given(
    seed=st.integers(0, 2**32 - 1),
    one=st.integers(0, 60),
    two=st.integers(0, 60),
    distance=st.sampled_from([0, 1, 2, 4, 9]),
)
@settings(max_examples=80, deadline=None)
def test_near_hashes_are_those_of_all_pairs(seed: int, one: int, two: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, 4, dtype=np.uint64)

    def hashes(count: int) -> np.ndarray:
        out = rng.choice(base, count) if count else np.zeros(0, np.uint64)
        for _ in range(4):
            flips = np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
            out = np.where(rng.random(count) < 0.6, out ^ flips, out)
        return out

    a, b = hashes(one), hashes(two)
    i, j, bits = leakage.within(a, b, distance)
    slow = [
        (x, y, (int(a[x]) ^ int(b[y])).bit_count())
        for x, y in itertools.product(range(one), range(two))
        if (int(a[x]) ^ int(b[y])).bit_count() <= distance
    ]
    assert list(zip(i.tolist(), j.tolist(), bits.tolist(), strict=True)) == slow


def test_blocks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 40, n, dtype=np.uint64) for n in (300, 200))
    whole = leakage.within(a, b, 1)
    monkeypatch.setattr(leakage, "BLOCK", 64)
    for one, other in zip(whole, leakage.within(a, b, 1), strict=True):
        np.testing.assert_array_equal(one, other)


# ---- what a plan does


def with_pictures(store: FakeStore) -> FakeStore:
    """`store` with what a real index says of its pictures."""
    store.index = store.index.assign(**{str(k): v for k, v in statistics.picture_statistics(store.pixels).items()})
    return store


def official(rows: int = 90) -> FakeStore:
    store = with_pictures(fake_store(rows))
    patient = store.index["patient"].str[1:].astype(int)
    store.index["split"] = np.where(patient % 5 == 0, "test", np.where(patient % 5 == 1, "val", "train"))
    return store


def test_a_patient_in_two_official_lists_is_refused_with_the_mend() -> None:
    store = official()
    split = {"test": "official", "val": "official"}
    assert len(plans.build(store, data(split=split), seed=0).rows["test"]) == 18
    at = store.index.index[store.index["split"] == "test"][0]
    store.index.loc[at, "split"] = "train"  # of a patient of two pictures, the other stays in test
    with pytest.raises(UserError) as caught:
        plans.build(store, data(split=split), seed=0)
    said = str(caught.value)
    assert said.startswith(
        "1 patient stands in two parts of the dataset's own split: row 6 (images/1.png) of test and row 3"
    )
    assert "data.split.test: 0.2" in said and "data.split.leaks: drop" in said and "\n" not in said
    assert "p0" not in said  # the patient is not named
    plan = plans.build(store, data(split={**split, "leaks": "drop"}), seed=0)
    assert 3 not in plan.rows["train"] and 6 in plan.rows["test"]
    assert "left out: 1 row of train" in " ".join(plan.warnings)
    with pytest.raises(UserError, match="1 patient stands"):  # val is cut from the rest, and the list still leaks
        plans.build(store, data(split={"test": "official"}), seed=0)


def test_a_planted_copy_is_refused_in_official_lists_and_kept_whole_in_ours() -> None:
    store = official()
    train, test = (store.index.index[store.index["split"] == part][4] for part in ("train", "test"))
    store.pixels[train] = store.pixels[test]
    store = with_pictures(store)
    with pytest.raises(UserError, match="1 picture stands in two parts"):
        plans.build(store, data(split={"test": "official", "val": "official"}), seed=0)
    rows = store.index.loc[[train, test], "row"].tolist()
    for by, seed in itertools.product(("patient", "image"), range(6)):
        plan = plans.build(store, data(split={"by": by, "seed": seed}), seed=0)
        assert len({part for part, held in plan.rows.items() for row in rows if row in held}) == 1, (by, seed)
        assert any("patients stand in two parts" in w for w in plan.warnings) == (by == "image")


def test_pictures_of_one_gray_value_are_no_copies() -> None:
    store = official()
    store.pixels[:40] = 0
    plans.build(with_pictures(store), data(split={"test": "official", "val": "official"}), seed=0)


def test_dropping_all_of_a_part_is_an_error() -> None:
    store = official()
    store.index["patient"] = "the same"
    with pytest.raises(UserError, match="has no rows: 1 patient stands"):
        plans.build(store, data(split={"test": "official", "val": "official", "leaks": "drop"}), seed=0)


# ---- nearly the same picture


def chest(seed: int, size: int = 96) -> np.ndarray:
    """Two dark lungs in a bright frame, with a person's own low frequencies and noise: uint8 [size, size]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.normal(0, 40, (9, 9)).astype(np.float32)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    lungs = sum(np.exp(-(((x - side) / 0.3) ** 2 + (y / 0.6) ** 2)) for side in (-0.45, 0.45))
    return np.clip(190 - 130 * lungs + np.asarray(coarse) + rng.normal(0, 4, (size, size)), 0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=60)
    return decode(file.getvalue(), picture.shape).pixels


def store_of(folder: Path, pictures: np.ndarray, split: list[str]) -> stores.Store:
    table = pd.DataFrame({"a": np.arange(len(pictures)) % 2, "split": split})
    return store_writer.write(folder, pictures, table, labels=["a"], task="binary")


def test_a_copy_is_found_by_its_look_and_warned_of_once(tmp_path: Path) -> None:
    pictures = np.stack([chest(seed) for seed in range(60)])
    split = ["test"] * 12 + ["val"] * 12 + ["train"] * 36
    pictures[30] = jpeg(pictures[5])  # train holds a copy of a test picture
    pictures[40] = np.clip(pictures[15] * 1.08 + 4, 0, 255).astype(np.uint8)  # and a brighter one of val
    store = store_of(tmp_path / "s", pictures, split)
    config = cfg.validate(
        {
            "data": {"shards": str(store.path), "split": {"test": "official", "val": "official"}},
            "model": {"name": "lenet"},
        }
    )
    _, plan, _ = prepare(config)
    told = [w for w in plan.warnings if "look like one picture" in w]
    assert len(told) == 1 and told[0].startswith("2 pairs of pictures stand in two parts")
    assert "row 5 of test and row 30 of train" in told[0] and "row 15 of val and row 40 of train" in told[0]
    assert ".png" not in told[0]  # a warning goes into the report, where no file is named
    off = cfg.validate(cfg.merge(config.model_dump(), {"data": {"split": {"near_duplicates": None}}}))
    assert not [w for w in prepare(off)[1].warnings if "look like" in w]


def test_likeness_alone_is_no_copy() -> None:
    """Hashes within reach of each other, thumbnails that differ."""
    one, other = chest(1), chest(2)
    table = pd.DataFrame({"row": [7, 9], "variance": 5.0, "phash": np.uint64(77), "pixels_sha256": ["x", "y"]})
    rows = {"test": np.array([7]), "train": np.array([9])}
    assert len(leakage.near(table, rows, distance=4)) == 1
    pixels = {7: one, 9: other}
    assert leakage.near(table, rows, distance=4, images=lambda asked: np.stack([pixels[r] for r in asked])).empty
    pixels[9] = jpeg(one)
    found = leakage.near(table, rows, distance=4, images=lambda asked: np.stack([pixels[r] for r in asked]))
    assert found.iloc[0].tolist() == [7, "test", 9, "train", 0]


def test_correlation_is_pearsons() -> None:
    pictures = np.stack([chest(seed, 64) for seed in range(5)])
    one, two = np.array([0, 0, 3, 4]), np.array([1, 0, 4, 2])
    got = leakage.correlation(one, two, lambda rows: pictures[rows])
    small = pictures.reshape(5, 32, 2, 32, 2).mean((2, 4)).reshape(5, -1)
    wanted = [np.corrcoef(small[a], small[b])[0, 1] for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(got, wanted, atol=2e-3)  # the thumbnails are of whole gray values


def test_the_threshold_parts_people_from_copies_on_real_pictures(shared_data: Path) -> None:
    folder = shared_data / "nih"
    table = pd.read_csv(folder / "Data_Entry_2017_v2020.csv")[["Image Index", "Patient ID"]].head(250)
    pictures = np.stack([decode((folder / "images" / f).read_bytes(), (128, 128)).pixels for f in table["Image Index"]])
    a, b = np.triu_indices(len(table), 1)
    patient = table["Patient ID"].to_numpy()
    far = patient[a] != patient[b]
    likeness = leakage.correlation(a[far], b[far], lambda rows: pictures[rows])
    assert likeness.max() < leakage.ALIKE - 0.01
    copies = np.stack([jpeg(p) for p in pictures])
    both = np.concatenate([pictures, copies])
    at = np.arange(len(pictures))
    assert leakage.correlation(at, at + len(pictures), lambda rows: both[rows]).min() > leakage.ALIKE + 0.01
    assert (np.bitwise_count(perceptual_hash(pictures) ^ perceptual_hash(copies)) <= 4).all()


def test_a_planted_copy_of_a_real_picture_is_refused_and_named(shared_data: Path) -> None:
    folder = shared_data / "nih"
    raw = pd.read_csv(folder / "Data_Entry_2017_v2020.csv")[["Image Index", "Patient ID"]].head(60)
    pictures = np.stack([decode((folder / "images" / f).read_bytes(), (64, 64)).pixels for f in raw["Image Index"]])
    cut = raw["Patient ID"].quantile(0.66)
    pictures[-1] = pictures[0]
    index = pd.DataFrame(
        {"row": np.arange(60), "image": raw["Image Index"], "patient": raw["Patient ID"].astype(str), "split": None}
    ).assign(**{str(k): v for k, v in statistics.picture_statistics(pictures).items()})
    index["split"] = np.where(raw["Patient ID"] > cut, "test", "train")
    index["Finding"] = np.float32(np.arange(60) % 2)
    store = FakeStore(index, pictures, ("Finding",), task="binary")
    with pytest.raises(
        UserError, match=r"1 picture stands in two parts .*row 59 \(.*\.png\) of test and row 0 \("
    ) as caught:
        plans.build(store, data(split={"test": "official"}), seed=0)
    assert "patient stands" not in str(caught.value)
