"""Leaks against loops over all pairs of rows, and near duplicates: copies are found, similar images are not."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_ray import config as cfg
from cxr_ray.data import leakage, store_writer
from cxr_ray.data import store as stores
from cxr_ray.data.info import DatasetInfo
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.phash import perceptual_hash
from cxr_ray.training.setup import prepare

PARTS = np.array(["train", "val", "test"], dtype=object)


def data(**hyperparameters) -> cfg.Data:
    return cfg.validate({"data": hyperparameters}).data


@st.composite
def tables(draw) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of few patients and few images, some without patient or image, in three parts."""
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
    """Whether two rows have the same patient, or the same image (with more than one gray value)."""
    if what == "patient":
        return table["patient"][a] is not None and table["patient"][a] == table["patient"][b]
    return table["pixels_sha256"][a] == table["pixels_sha256"][b] and table["variance"][a] > 0


@given(tables())
@settings(max_examples=60, deadline=None)
def test_what_is_in_two_parts_is_found_and_gone_without_the_leaking_rows(
    given_: tuple[pd.DataFrame, np.ndarray],
) -> None:
    table, part = given_
    found = leakage.pairs_across_parts(table, part, by_patient=True)
    assert found.index.tolist() == list(range(len(found)))
    position = {row: at for at, row in enumerate(table["row"])}
    for pair in found.to_dict("records"):
        a, b = position[pair["row"]], position[pair["other"]]
        assert shares(table, a, b, pair["what"]) and part[a] == pair["part"] != pair["other_part"] == part[b]
        assert leakage.PRIORITY.index(pair["part"]) < leakage.PRIORITY.index(pair["other_part"])
    crossing: dict[str, set[str]] = {what: set() for what in ("patient", "image")}
    column = {"patient": "patient", "image": "pixels_sha256"}
    for what, (a, b) in itertools.product(crossing, itertools.combinations(range(len(table)), 2)):
        if part[a] != part[b] and shares(table, a, b, what):
            crossing[what].add(table[column[what]][a])
    for what, names in crossing.items():
        reported = found.loc[found["what"] == what, "row"].map(position).map(table[column[what]])
        assert set(reported) == names
    out = leakage.leaking_rows(table, part, by_patient=True)
    assert not out[part == "test"].any() and out.any() == bool(len(found))
    rest = table[~out].reset_index(drop=True)
    assert leakage.pairs_across_parts(rest, part[~out], by_patient=True).empty
    # and no more than needed: every leaking row shares something with an earlier part
    for at in np.flatnonzero(out).tolist():
        earlier = leakage.PRIORITY[: leakage.PRIORITY.index(part[at])]
        assert any(part[b] in earlier and any(shares(table, at, b, w) for w in crossing) for b in range(len(table)))


@given(tables())
@settings(max_examples=50, deadline=None)
def test_groups_with_the_same_image_are_joined(given_: tuple[pd.DataFrame, np.ndarray]) -> None:
    table, _ = given_
    group = np.random.default_rng(len(table)).integers(0, 12, len(table))
    joined = leakage.join_groups(group, table)
    slow = list(range(len(table)))  # spread the smallest number until nothing changes
    changed = True
    while changed:
        changed = False
        for a, b in itertools.combinations(range(len(table)), 2):
            if (group[a] == group[b] or shares(table, a, b, "image")) and slow[a] != slow[b]:
                slow[a] = slow[b] = min(slow[a], slow[b])
                changed = True
    for a, b in itertools.combinations(range(len(table)), 2):
        assert (joined[a] == joined[b]) == (slow[a] == slow[b])


def test_groups_stay_as_they_are_without_image_statistics() -> None:
    table = pd.DataFrame({"row": [3, 6, 9, 12]})
    assert leakage.join_groups(np.array([5, 2, 5, 0]), table).tolist() == [5, 2, 5, 0]


@given(
    seed=st.integers(0, 2**32 - 1),
    one=st.integers(0, 60),
    two=st.integers(0, 60),
    distance=st.sampled_from([0, 1, 2, 4, 9]),
)
@settings(max_examples=80, deadline=None)
def test_similar_hashes_match_a_loop_over_all_pairs(seed: int, one: int, two: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, 4, dtype=np.uint64)

    def hashes(count: int) -> np.ndarray:
        out = rng.choice(base, count) if count else np.zeros(0, np.uint64)
        for _ in range(4):
            flips = np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
            out = np.where(rng.random(count) < 0.6, out ^ flips, out)
        return out

    a, b = hashes(one), hashes(two)
    i, j, bits = leakage.similar_hashes(a, b, distance)
    slow = [
        (x, y, (int(a[x]) ^ int(b[y])).bit_count())
        for x, y in itertools.product(range(one), range(two))
        if (int(a[x]) ^ int(b[y])).bit_count() <= distance
    ]
    assert list(zip(i.tolist(), j.tolist(), bits.tolist(), strict=True)) == slow


def test_the_block_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 40, n, dtype=np.uint64) for n in (300, 200))
    expected = leakage.similar_hashes(a, b, 1)
    monkeypatch.setattr(leakage, "BLOCK_PAIRS", 64)
    for one, other in zip(expected, leakage.similar_hashes(a, b, 1), strict=True):
        np.testing.assert_array_equal(one, other)


# ---- near duplicates


def chest(seed: int, size: int = 96) -> np.ndarray:
    """Two dark lungs in a bright frame, with low frequencies and noise of each person: uint8 [size, size]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.normal(0, 40, (9, 9)).astype(np.float32)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    lungs = sum(np.exp(-(((x - side) / 0.3) ** 2 + (y / 0.6) ** 2)) for side in (-0.45, 0.45))
    return np.clip(190 - 130 * lungs + np.asarray(coarse) + rng.normal(0, 4, (size, size)), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return decode(file.getvalue(), image.shape).pixels


def store_of(folder: Path, images: np.ndarray, split: list[str]) -> stores.Store:
    table = pd.DataFrame({"a": np.arange(len(images)) % 2, "split": split})
    return store_writer.write(folder, images, table, DatasetInfo(labels=("a",), task="binary"))


def test_preparing_a_training_warns_of_near_duplicates(tmp_path: Path) -> None:
    images = np.stack([chest(seed) for seed in range(60)])
    split = ["test"] * 12 + ["val"] * 12 + ["train"] * 36
    images[30] = jpeg(images[5])  # train has a copy of a test image
    images[40] = np.clip(images[15] * 1.08 + 4, 0, 255).astype(np.uint8)  # and a brighter copy of a val image
    store = store_of(tmp_path / "s", images, split)
    config = cfg.validate(
        {
            "data": {"shards": str(store.path), "split": {"test": "official", "val": "official"}},
            "model": {"name": "lenet"},
        }
    )
    _, plan, _ = prepare(config)
    warnings = [w for w in plan.warnings if "look alike" in w]
    assert len(warnings) == 1 and warnings[0].startswith("2 pairs of images are in two parts and look alike (")
    assert "row 5 of test and row 30 of train" in warnings[0] and "row 15 of val and row 40 of train" in warnings[0]
    assert ".png" not in warnings[0]  # a warning goes into the report, which names no file
    off = cfg.validate(cfg.merge(config.model_dump(), {"data": {"split": {"near_duplicates": None}}}))
    assert not [w for w in prepare(off)[1].warnings if "look alike" in w]


def two_rows(**columns: Any) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """A row of test and a row of train with equal hashes and different pixels, and the rows by part."""
    table = pd.DataFrame({"row": [7, 9], "variance": 5.0, "phash": np.uint64(77), "pixels_sha256": ["x", "y"]})
    return table.assign(**columns), {"test": np.array([7]), "train": np.array([9])}


def test_similar_hashes_of_different_images_are_no_near_duplicates() -> None:
    table, rows = two_rows()
    assert len(leakage.near_duplicates(table, rows, distance=4)) == 1
    pixels = {7: chest(1), 9: chest(2)}
    read = lambda asked: np.stack([pixels[r] for r in asked])  # noqa: E731
    assert leakage.near_duplicates(table, rows, distance=4, images=read).empty
    pixels[9] = jpeg(pixels[7])
    found = leakage.near_duplicates(table, rows, distance=4, images=read)
    assert found.iloc[0].tolist() == [7, "test", 9, "train", 0]


@pytest.mark.parametrize("distance", [0, 3, 4])
def test_the_distance_is_the_largest_number_of_differing_bits(distance: int) -> None:
    table, rows = two_rows(phash=np.array([77, 77 ^ 0b1_0001_0010_0001_0000], dtype=np.uint64))  # 4 bits
    found = leakage.near_duplicates(table, rows, distance=distance)
    assert found["distance"].tolist() == ([4] if distance >= 4 else [])


def test_a_correlation_equal_to_the_threshold_is_a_near_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    table, rows = two_rows()
    pixels = {7: chest(1), 9: jpeg(chest(1))}
    read = lambda asked: np.stack([pixels[r] for r in asked])  # noqa: E731
    exact = leakage.correlation(rows["test"], rows["train"], read)[0]
    for threshold, pairs in ((exact, 1), (np.nextafter(exact, 2), 0)):
        monkeypatch.setattr(leakage, "MIN_CORRELATION", threshold)
        assert len(leakage.near_duplicates(table, rows, distance=4, images=read)) == pairs


def test_equal_pixels_and_images_of_one_gray_value_are_no_near_duplicates() -> None:
    for columns in ({"pixels_sha256": "x"}, {"variance": [5.0, 0.0]}, {"variance": [0.0, 5.0]}):
        table, rows = two_rows(**columns)
        assert leakage.near_duplicates(table, rows, distance=4).empty, columns
    table, rows = two_rows(variance=1e-9)
    assert len(leakage.near_duplicates(table, rows, distance=4)) == 1


def test_near_duplicates_are_sorted_by_distance_then_row() -> None:
    table = pd.DataFrame({"row": [1, 2, 3, 4], "variance": 5.0, "phash": np.array([0, 1, 3, 0], dtype=np.uint64)})
    rows = {"train": np.array([2, 3]), "val": np.array([4]), "test": np.array([1])}
    found = leakage.near_duplicates(table, rows, distance=2)
    assert found.to_numpy().tolist() == [
        [1, "test", 4, "val", 0],
        [1, "test", 2, "train", 1],
        [4, "val", 2, "train", 1],
        [1, "test", 3, "train", 2],
        [4, "val", 3, "train", 2],
    ]


def test_an_image_of_one_gray_value_correlates_with_nothing() -> None:
    images = np.stack([chest(1, 64), np.full((64, 64), 90, np.uint8), np.full((64, 64), 90, np.uint8)])
    got = leakage.correlation(np.array([0, 1, 0]), np.array([1, 2, 0]), lambda rows: images[rows])
    np.testing.assert_allclose(got, [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 1005])
def test_a_description_names_three_pairs_and_counts_the_others(count: int) -> None:
    pairs = pd.DataFrame(
        {"row": np.arange(count), "part": "test", "other": np.arange(count) + 5000, "other_part": "train"}
    )
    named = "; ".join(f"row {i} of test and row {i + 5000} of train" for i in range(min(count, 3)))
    more = {4: "; and 1 more", 1005: "; and 1,002 more"}.get(count, "")
    assert leakage.describe_pairs(pairs) == named + more
    if count == 1:
        assert leakage.describe_pairs(pairs, names=pd.Series({0: "a.png", 5000: "b.png"})) == (
            "row 0 (a.png) of test and row 5000 (b.png) of train"
        )


def test_faint_images_count_as_images() -> None:
    """Any variance above 0 will do: of one pixel that differs by one gray value, for example."""
    table, rows = two_rows(variance=0.001)
    assert len(leakage.near_duplicates(table, rows, distance=4)) == 1
    table["pixels_sha256"] = "x"
    assert leakage.shared_keys(table, by_patient=False)["image"].tolist() == [0, 0]
    faint = np.zeros((1, 32, 32), np.uint8)
    faint[0, 3, 4] = 1
    np.testing.assert_allclose(
        leakage.correlation(np.array([0]), np.array([0]), lambda rows: faint[rows]), 1, atol=1e-6
    )


def test_without_pairs_the_columns_are_there() -> None:
    table, rows = two_rows()
    for given_ in (table.drop(columns="phash"), table[:1], table.assign(phash=np.array([0, 2**64 - 1], np.uint64))):
        found = leakage.near_duplicates(
            given_, rows, distance=4, images=lambda rows: np.zeros((len(rows), 32, 32), np.uint8)
        )
        assert found.empty and list(found.columns) == ["row", "part", "other", "other_part", "distance"]


def test_each_image_is_read_once_in_any_number_of_pairs() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 32, 32), dtype=np.uint8)  # more than two reads of 256 images
    one, two = rng.integers(0, 600, (2, 9000))  # more than two steps of 4096 pairs
    read: list[int] = []

    def of(rows: np.ndarray) -> np.ndarray:
        read.extend(rows.tolist())
        return images[rows]

    got = leakage.correlation(one, two, of)
    assert sorted(read) == list(range(600))
    flat = images.reshape(600, -1).astype(float)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(got, (flat[one] * flat[two]).sum(axis=1), atol=1e-5)


def test_correlation_matches_pearson_s() -> None:
    images = np.stack([chest(seed, 64) for seed in range(5)])
    one, two = np.array([0, 0, 3, 4]), np.array([1, 0, 4, 2])
    got = leakage.correlation(one, two, lambda rows: images[rows])
    small = images.reshape(5, 32, 2, 32, 2).mean((2, 4)).reshape(5, -1)
    wanted = [np.corrcoef(small[a], small[b])[0, 1] for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(got, wanted, atol=2e-3)  # the thumbnails are rounded to integers


def test_the_threshold_separates_persons_from_copies_on_real_images(shared_data: Path) -> None:
    folder = shared_data / "nih"
    table = pd.read_csv(folder / "Data_Entry_2017_v2020.csv")[["Image Index", "Patient ID"]].head(250)
    decoded = [decode((folder / "images" / f).read_bytes(), (128, 128)).pixels for f in table["Image Index"]]
    images = np.stack(decoded).astype(np.uint8)
    a, b = np.triu_indices(len(table), 1)
    patient = table["Patient ID"].to_numpy()
    different = patient[a] != patient[b]
    found = leakage.correlation(a[different], b[different], lambda rows: images[rows])
    assert found.max() < leakage.MIN_CORRELATION - 0.01
    copies = np.stack([jpeg(p) for p in images])
    both = np.concatenate([images, copies])
    at = np.arange(len(images))
    assert leakage.correlation(at, at + len(images), lambda rows: both[rows]).min() > leakage.MIN_CORRELATION + 0.01
    assert (np.bitwise_count(perceptual_hash(images) ^ perceptual_hash(copies)) <= 4).all()
