"""Writing a store: plain Arrow and Parquet files, the documented manifest, and the same bytes for the same input."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxr_ray.data import store as stores
from cxr_ray.data import store_format, store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.errors import UserError
from tests.data.small_store import INFO, ROWS, H, N, W, make, pixels


def test_the_index_has_the_documented_columns(path: Path) -> None:
    columns = list(pd.read_parquet(path / "index.parquet").columns)
    assert columns == [
        "row", "shard", "offset", "source_row", "image", "patient", "study", "view", "sex", "age", "source", "split", "mask",
        "study_number", "height", "width", "scale_y", "scale_x", "top", "left", "window_low", "window_high", "mean",
        "variance", "pixels_sha256", "file_sha256", "phash", "label/Edema", "label/Lung Opacity",
    ]  # fmt: skip


def test_the_manifest_has_the_documented_keys_in_order(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    assert list(manifest) == [
        "format_version", "source", "labels", "task", "groups", "filters", "default_labels", "features", "notes", "size",
        "aspect", "depth", "settings", "rows", "rejected", "files", "prose", "digest",
    ]  # fmt: skip
    assert manifest["size"] == [H, W] and (manifest["rows"], manifest["rejected"], manifest["format_version"]) == (
        N,
        0,
        3,
    )
    assert (
        sorted(manifest["files"])
        == list(manifest["files"])
        == sorted(p.name for p in path.iterdir() if p.name != "manifest.json")
    )


def test_statistics_match_the_images(path: Path) -> None:
    index = stores.open(path).index
    for i, image in enumerate(pixels()):
        assert index["mean"][i] == pytest.approx(image.mean(), abs=1e-12)
        assert index["variance"][i] == pytest.approx(image.astype(np.float64).var(), abs=1e-9)
        assert index["pixels_sha256"][i] == hashlib.sha256(image.tobytes()).hexdigest()
    assert index["phash"].dtype == np.uint64


def test_shards_are_plain_arrow_files(path: Path) -> None:
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
    np.testing.assert_array_equal(np.concatenate([images for _, images in seen]), pixels())


def test_the_same_input_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    second = make(tmp_path / "second").path
    assert sorted(p.name for p in second.iterdir()) == sorted(p.name for p in path.iterdir())
    for file in second.iterdir():
        assert file.read_bytes() == (path / file.name).read_bytes(), file.name
    text = (path / "manifest.json").read_text()
    assert str(path) not in text and "time" not in text


def test_a_non_empty_folder_and_reserved_names_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not empty"):
        make(path)
    with pytest.raises(UserError, match="column name 'label/A'"):
        table = pd.DataFrame({"label/A": np.zeros(N), "B": np.zeros(N)})
        store_writer.write(tmp_path / "s", pixels(), table, DatasetInfo(labels=("B",), task="binary"))


def test_missing_parent_folders_are_made_and_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert len(make(tmp_path / "a" / "b")) == N
    (tmp_path / "empty").mkdir()
    assert len(make(tmp_path / "empty")) == N


def test_columns_that_are_not_given_are_filled_in(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 8), dtype=np.uint8)
    info = DatasetInfo(labels=("A",), task="binary")
    store = store_writer.write(tmp_path / "s", images, pd.DataFrame({"A": [0, 1, 0, 1, 0]}), info, shard_rows=2)
    index = store.index
    assert index["row"].tolist() == index["source_row"].tolist() == [0, 1, 2, 3, 4]
    assert index["shard"].tolist() == [0, 0, 1, 1, 2] and index["offset"].tolist() == [0, 1, 0, 1, 0]
    assert index["image"].tolist() == [f"{i}.png" for i in range(5)]
    assert index["patient"].tolist() == ["0", "1", "2", "3", "4"]  # a patient per image
    assert set(index["height"]) == {6} and set(index["width"]) == {8}
    assert set(index["scale_y"]) == set(index["scale_x"]) == {1.0} and set(index["top"]) == set(index["left"]) == {0.0}
    assert (
        index[["study", "view", "sex", "age", "source", "split", "mask", "window_low", "window_high", "file_sha256"]]
        .isna()
        .all(axis=None)
    )
    assert index["A"].dtype == np.float32 and store.depth == 8 and store.manifest.format_version == 3


def test_labels_may_have_the_names_of_columns(tmp_path: Path) -> None:
    """Every column of the store, and one of the source; the columns themselves keep their values."""
    names = (*sorted(store_format.RESERVED), "study_number", "Edema")
    values = {name: np.random.default_rng(i).integers(0, 2, 5).astype(np.float32) for i, name in enumerate(names)}
    columns = {"sex": list("FMFMF"), "study_number": np.arange(5)}
    table = pd.DataFrame(columns | {f"label/{name}": value for name, value in values.items() if name in columns})
    table = table.assign(**{name: value for name, value in values.items() if name not in columns})
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 8), dtype=np.uint8)
    store_writer.write(tmp_path / "s", images, table, DatasetInfo(labels=names, task="multilabel"))
    store = stores.open(tmp_path / "s", verify="full")
    for position, stored in enumerate(store):
        assert stored.labels == {name: value[position] for name, value in values.items()}
        np.testing.assert_array_equal(stored.image, images[position])
    assert store.index["sex"].tolist() == list("FMFMF") and store.index["study_number"].tolist() == list(range(5))
    assert store.index["height"].tolist() == [6] * 5 and store.index["row"].tolist() == list(range(5))
    assert store.index["Edema"].tolist() == values["Edema"].tolist()  # shared with no column: its own name
    on_disk = pd.read_parquet(tmp_path / "s" / "index.parquet")
    assert [name for name in on_disk.columns.astype(str) if name.startswith("label/")] == [
        f"label/{name}" for name in names
    ]


def test_other_prose_is_the_same_store(path: Path, tmp_path: Path) -> None:
    """Its fingerprint, not its manifest: that has the text for readers."""
    info = INFO.model_copy(
        update={
            "notes": ("in other words",),
            "filters": tuple(f.model_copy(update={"about": "x"}) for f in INFO.filters),
        }
    )
    first, second = make(tmp_path / "a"), make(tmp_path / "b", info)
    assert first.fingerprint == second.fingerprint and second.info.notes == ("in other words",)
    assert (first.path / "manifest.json").read_bytes() != (second.path / "manifest.json").read_bytes()
    other = INFO.model_copy(update={"filters": (INFO.filters[0].model_copy(update={"query": "view == 'PA'"}),)})
    assert make(tmp_path / "c", other).fingerprint != first.fingerprint


def test_rejected_images_and_no_images_at_all_can_be_written(tmp_path: Path) -> None:
    rejected = pd.DataFrame({"reason": ["truncated"], "row": [7], "image": ["x.png"]})
    info = DatasetInfo(labels=("A",), task="binary")
    store = store_writer.write(
        tmp_path / "s", np.zeros((0, 6, 8), np.uint8), pd.DataFrame({"A": []}), info, rejected=rejected
    )
    for row in (0, 1):
        with pytest.raises(UserError, match=f"has no row {row}; "):
            store.images([row])
    assert len(store) == 0 and store.manifest.rejected == 1 and store.images([]).shape == (0, 6, 8)
    assert store.rejected().to_dict("list") == {"row": [7], "image": ["x.png"], "reason": ["truncated"]}
    assert [p.name for p in store.path.glob("*.arrow")] == ["images-00000-of-00001.arrow"]


def test_temporary_files_go_to_the_ingest_folder_if_there_is_one(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path | None] = []
    real = store_writer.write_atomic

    def spy(path: Path, content: Any, *, temporary_folder: Path | None = None) -> object:
        folders.append(temporary_folder)
        return real(path, content, temporary_folder=temporary_folder)

    monkeypatch.setattr(store_writer, "write_atomic", spy)
    store = stores.open(copy)
    tables = store_writer.Tables(store.index[::-1], boxes=store.boxes())
    shards = {name: entry for name, entry in store.manifest.files.items() if name.endswith(".arrow")}
    for expected in (None, copy / ".ingest"):
        if expected is not None:
            expected.mkdir()
        manifest = store_writer.finish(
            copy, tables, store.info, source="arrays", image_format=store_format.ImageFormat((H, W)), files=shards
        )
        assert set(folders) == {expected} and len(folders) == 4  # three tables and the manifest
        assert manifest == store.manifest and manifest.settings == ""
        folders.clear()


def test_files_have_1024_images_and_8192_rows_per_group_by_default(tmp_path: Path) -> None:
    images = np.zeros((1025, 1, 1), np.uint8)
    info = DatasetInfo(labels=("A",), task="binary")
    store = store_writer.write(tmp_path / "s", images, pd.DataFrame({"A": np.zeros(1025)}), info)
    assert np.bincount(store.index["shard"]).tolist() == [1024, 1] and store.manifest.source == "arrays"
    store_writer.write_parquet(tmp_path / "t.parquet", pd.DataFrame({"a": np.arange(8193)}))
    metadata = pq.ParquetFile(tmp_path / "t.parquet").metadata
    assert [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)] == [8192, 1]


def test_parquet_keeps_strings_missing_values_and_types(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "a": ["x", None, "None"],
            "b": pd.array(["NA", np.nan, ""], dtype="str"),
            "c": np.array([1, np.nan, -1], np.float32),
            "d": [1, 2, 3],
        }
    )
    store_writer.write_parquet(tmp_path / "f.parquet", frame)
    back = pq.read_table(tmp_path / "f.parquet")
    assert back["a"].to_pylist() == ["x", None, "None"] and back["b"].to_pylist() == ["NA", None, ""]
    assert back.schema.field("c").type == pa.float32() and np.isnan(back["c"].to_pylist()[1])
    assert back.schema.field("d").type == pa.int64() and back.schema.metadata is None


@pytest.mark.parametrize("kind", ["string", "str", object])
def test_missing_text_is_null_whatever_its_type(tmp_path: Path, kind: Any) -> None:
    frame = pd.DataFrame({"view": pd.Series(["PA", None, "nan", ""]).astype(kind)})
    store_writer.write_parquet(tmp_path / "t.parquet", frame)
    column = pq.read_table(tmp_path / "t.parquet").column("view")
    assert column.type == pa.string() and column.to_pylist() == ["PA", None, "nan", ""]
