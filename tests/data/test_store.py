"""The store: what goes in comes out, at any order, and no damaged or unfinished folder is ever read as whole."""

import json
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cxr_ray.data import store as stores
from cxr_ray.data import store_format, store_writer
from cxr_ray.errors import UserError
from cxr_ray.labels import Filter

H, W, N = 9, 13, 100
ROWS = np.sort(np.random.default_rng(3).choice(150, N, replace=False))  # sparse: some records were refused


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, H, W), dtype=np.uint8)


def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "row": ROWS,
            "patient": [f"p{i // 3}" for i in range(N)],
            "view": rng.choice(["PA", "AP"], N),
            "study_number": rng.integers(1, 5, N),
            "Edema": rng.choice([1.0, 0.0, -1.0, np.nan], N).astype(np.float32),
            "Lung Opacity": rng.choice([1.0, 0.0], N).astype(np.float32),
        }
    )


def make(path: Path) -> stores.Store:
    return store_writer.write(
        path, pictures(), table(), labels=["Edema", "Lung Opacity"], task="multilabel", shard_rows=17,
        filters=[Filter(name="frontal", query="view in ['PA', 'AP']")], groups={"both": ("Edema", "Lung Opacity")},
        default_labels=["Edema"], features=["view"], notes=["made up"],
        boxes=pd.DataFrame({"row": [ROWS[0]], "label": ["Edema"], "x": [1.0], "y": [2.0], "w": [3.0], "h": [4.0]}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("store") / "s").path


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(path, tmp_path / "copy"))


# ---- what goes in comes out


def test_the_store_says_what_was_written(path: Path) -> None:
    store = stores.open(path, verify="full")
    assert len(store) == N and store.size == (H, W) and store.task == "multilabel"
    assert store.labels == ("Edema", "Lung Opacity") and store.default_labels == ("Edema",)
    assert store.groups == {"both": ("Edema", "Lung Opacity")} and store.filters[0].name == "frontal"
    assert store.features == ("view",) and store.notes == ("made up",)
    assert store.index["row"].tolist() == ROWS.tolist()
    pd.testing.assert_series_equal(store.index["Edema"], table()["Edema"])
    assert store.index["study_number"].tolist() == table()["study_number"].tolist()  # a source's own column travels
    assert store.index["split"].isna().all() and store.index["patient"].iloc[4] == "p1"
    boxes = store.boxes()
    assert boxes is not None and boxes.iloc[0].tolist() == [ROWS[0], "Edema", 1, 2, 3, 4]
    assert list(store.rejected().columns) == ["row", "image", "reason"]
    wanted = [
        "row",
        "shard",
        "offset",
        "source_row",
        "image",
        "patient",
        "study",
        "view",
        "sex",
        "age",
        "source",
        "split",
        "mask",
        "study_number",
    ]
    assert list(store.index.columns[: len(wanted)]) == wanted
    assert list(store.index.columns[-2:]) == ["Edema", "Lung Opacity"]


def test_statistics_are_the_pictures(path: Path) -> None:
    import hashlib

    index = stores.open(path).index
    for i, picture in enumerate(pictures()):
        assert index["mean"][i] == pytest.approx(picture.mean(), abs=1e-12)
        assert index["variance"][i] == pytest.approx(picture.astype(np.float64).var(), abs=1e-9)
        assert index["pixels_sha256"][i] == hashlib.sha256(picture.tobytes()).hexdigest()
    assert index["phash"].dtype == np.uint64


def test_shards_are_plain_arrow_that_anyone_reads(path: Path) -> None:
    names = sorted(p.name for p in path.glob("*.arrow"))
    assert names == [f"images-{i:05d}-of-00006.arrow" for i in range(6)]
    seen = []
    for name in names:
        reader = pa.ipc.open_file(path / name)
        assert reader.num_record_batches == 1
        batch = reader.get_batch(0)
        assert batch.schema.field("row").type == pa.int64()
        assert batch.schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), [H, W])
        seen.append((batch["row"].to_numpy(), batch["image"].to_numpy_ndarray()))
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in seen]), ROWS)
    np.testing.assert_array_equal(np.concatenate([images for _, images in seen]), pictures())


def test_the_same_input_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "again").path
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in path.iterdir())
    for file in again.iterdir():
        assert file.read_bytes() == (path / file.name).read_bytes(), file.name
    text = (path / "manifest.json").read_text()
    assert str(path) not in text and "time" not in text


@given(picks=hnp.arrays(np.int64, st.integers(0, 60), elements=st.integers(0, N - 1)))
@settings(max_examples=60, deadline=None)
def test_images_is_a_naive_read(path: Path, picks: np.ndarray) -> None:
    store = stores.open(path, verify="none")
    naive = {int(row): picture for row, picture in zip(ROWS, pictures(), strict=True)}
    rows = ROWS[picks]
    got = store.images(rows)
    assert got.dtype == np.uint8 and got.shape == (len(rows), H, W)
    for row, picture in zip(rows.tolist(), got, strict=True):
        np.testing.assert_array_equal(picture, naive[row])
    out = np.full((len(rows), H, W), 77, np.uint8)
    assert store.images(rows.tolist(), out) is out
    np.testing.assert_array_equal(out, got)


def test_images_are_copies_that_may_be_written(path: Path) -> None:
    store = stores.open(path)
    got = store.images([ROWS[0]])
    got[:] = 0
    np.testing.assert_array_equal(store.images([ROWS[0]])[0], pictures()[0])


def test_unknown_rows_are_refused(path: Path) -> None:
    store = stores.open(path)
    absent = next(row for row in range(150) if row not in set(ROWS.tolist()))
    for rows in ([-1], [absent], [150], [10**12], [int(ROWS[0]), -(10**12)]):
        with pytest.raises(UserError, match=r"holds no row -?\d+"):
            store.images(rows)
    for wrong in ([0.5], [[1, 2]], ["a"], [True]):
        with pytest.raises(UserError, match="whole numbers in one dimension"):
            store.images(wrong)
    with pytest.raises(ValueError, match="needed is uint8"):
        store.images([ROWS[0]], np.empty((1, H, W), np.float32))


def test_threads_share_a_store(path: Path) -> None:
    store = stores.open(path)
    wanted, wrong = pictures(), []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            picks = rng.integers(0, N, 16)
            if not (store.images(ROWS[picks]) == wanted[picks]).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_pickled_store_is_its_path_and_is_checked(path: Path, copy: Path) -> None:
    body = pickle.dumps(stores.open(copy))
    assert len(body) < 1000
    np.testing.assert_array_equal(pickle.loads(body).images([ROWS[5]])[0], pictures()[5])
    shutil.rmtree(copy)
    store_writer.write(copy, pictures()[:3], table()[["Edema"]][:3], labels=["Edema"], task="binary")
    with pytest.raises(UserError, match="no longer the store"):
        pickle.loads(body)


# ---- damage


def problems_of(path: Path) -> str:
    found = store_format.verify(path)
    assert len(found) == 1, found
    return found[0]


def test_every_flipped_bit_is_found_and_its_file_named(copy: Path) -> None:
    assert store_format.verify(copy) == []
    rng = np.random.default_rng(0)
    files = sorted(copy.iterdir())
    for number in range(200):
        file = files[number % len(files)]
        body = bytearray(file.read_bytes())
        body[rng.integers(len(body))] ^= 1 << rng.integers(8)
        held = file.read_bytes()
        file.write_bytes(body)
        assert problems_of(copy).startswith(f"{file.name}: "), number
        with pytest.raises(UserError, match=r"damaged|format \d+"):
            stores.open(copy, verify="full")
        file.write_bytes(held)
    assert store_format.verify(copy) == []


def test_every_bit_of_the_manifest_counts(copy: Path) -> None:
    manifest = copy / "manifest.json"
    held = manifest.read_bytes()
    for at in range(0, len(held), 7):
        body = bytearray(held)
        body[at] ^= 1 << at % 8
        manifest.write_bytes(body)
        assert problems_of(copy).startswith("manifest.json: "), at
        with pytest.raises(UserError):
            stores.open(copy)


def test_cut_missing_longer_and_extra_files_are_found(copy: Path) -> None:
    shard = copy / "images-00002-of-00006.arrow"
    held = shard.read_bytes()
    shard.write_bytes(held[:-5])
    assert problems_of(copy) == f"{shard.name}: cut, {len(held) - 5} bytes instead of {len(held)}"
    with pytest.raises(UserError, match=rf"{shard.name}: cut.*ingest again"):
        stores.open(copy)
    shard.write_bytes(held + b"x")
    assert "longer" in problems_of(copy)
    shard.unlink()
    assert problems_of(copy) == f"{shard.name}: missing"
    with pytest.raises(UserError, match="missing"):
        stores.open(copy)
    with pytest.raises(UserError, match="cannot read"):
        stores.open(copy, verify="none").images(ROWS)
    shard.write_bytes(held)
    (copy / "notes.txt").write_text("x")
    assert problems_of(copy).startswith("notes.txt: extra")
    stores.open(copy)  # harmless for reading


def test_a_flipped_pixel_passes_the_manifest_check_and_not_the_full_one(copy: Path) -> None:
    shard = copy / "images-00000-of-00006.arrow"
    body = bytearray(shard.read_bytes())
    body[len(body) // 2] ^= 1
    shard.write_bytes(body)
    stores.open(copy)
    with pytest.raises(UserError, match=r"images-00000-of-00006.arrow: bytes changed"):
        stores.open(copy, verify="full")


def test_what_is_no_store_is_told_apart(path: Path, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        stores.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a store"):
        stores.open(tmp_path / "empty")
    with pytest.raises(UserError, match="is not a store"):
        stores.open(copy / "index.parquet")
    manifest = (copy / "manifest.json").read_text()
    (copy / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"unfinished ingest.*run the same ingest again"):
        stores.open(copy)
    with pytest.raises(UserError, match="unfinished ingest"):
        store_format.verify(copy)
    (copy / "manifest.json").write_text(
        json.dumps({**json.loads(manifest), "format_version": store_format.FORMAT_VERSION + 1})
    )
    with pytest.raises(UserError, match=r"format 3.*newer cxr_ray"):
        stores.open(copy)
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        stores.open(copy)


def test_a_later_field_of_the_manifest_is_covered_by_the_digest(copy: Path) -> None:
    """A store written by a later version of the same format opens, and its new field cannot be changed unseen."""
    body = json.loads((copy / "manifest.json").read_text())
    body.pop("digest")
    body["new"] = 1
    digest = store_format.digest_of(body)
    (copy / "manifest.json").write_bytes(store_format._canonical({**body, "digest": digest}))
    assert stores.open(copy).fingerprint == digest
    (copy / "manifest.json").write_bytes(store_format._canonical({**body, "new": 2, "digest": digest}))
    with pytest.raises(UserError, match="digest differs"):
        stores.open(copy)


# ---- writing


def test_write_refuses_a_full_folder_and_reserved_names(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not empty"):
        make(path)
    with pytest.raises(UserError, match="column name 'mean'"):
        store_writer.write(
            tmp_path / "s", pictures(), pd.DataFrame({"mean": np.zeros(N)}), labels=["mean"], task="binary"
        )


def test_parquet_keeps_strings_missing_values_and_kinds(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "a": ["x", None, "None"],
            "b": pd.array(["NA", np.nan, ""], dtype="str"),
            "c": np.float32([1, np.nan, -1]),
            "d": [1, 2, 3],
        }
    )
    store_writer.write_parquet(tmp_path / "f.parquet", frame)
    back = pq.read_table(tmp_path / "f.parquet")
    assert back["a"].to_pylist() == ["x", None, "None"] and back["b"].to_pylist() == ["NA", None, ""]
    assert back.schema.field("c").type == pa.float32() and np.isnan(back["c"].to_pylist()[1])
    assert back.schema.field("d").type == pa.int64() and back.schema.metadata is None
