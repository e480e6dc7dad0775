"""Reading a store: the images and tables that were written come back, in any order, and errors name their cause."""

import json
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cxr_ray.data import store as stores
from cxr_ray.data import store_format, store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.errors import UserError
from tests.data.small_store import INFO, ROWS, H, N, W, pixels, table


def test_an_opened_store_has_what_was_written(path: Path) -> None:
    store = stores.open(path, verify="full")
    assert len(store) == N and store.size == (H, W) and store.depth == 8
    assert store.info == INFO and store.labels == INFO.labels and store.task == "multilabel"
    assert store.manifest.source == "arrays"
    assert store.index["row"].tolist() == ROWS.tolist()
    pd.testing.assert_series_equal(store.index["Edema"], table()["Edema"])
    assert store.index["study_number"].tolist() == table()["study_number"].tolist()  # a column of this source only
    assert store.index["split"].isna().all() and store.index["patient"].iloc[4] == "p1"
    boxes = store.boxes()
    assert boxes is not None and boxes.iloc[0].tolist() == [ROWS[0], "Edema", 1, 2, 3, 4]
    assert list(store.rejected().columns) == ["row", "image", "reason"]


@given(picks=hnp.arrays(np.int64, st.integers(0, 60), elements=st.integers(0, N - 1)))
@settings(max_examples=60, deadline=None)
def test_images_match_a_naive_read(path: Path, picks: np.ndarray) -> None:
    store = stores.open(path, verify="none")
    naive = {int(row): image for row, image in zip(ROWS, pixels(), strict=True)}
    rows = ROWS[picks]
    got = store.images(rows)
    assert got.dtype == np.uint8 and got.shape == (len(rows), H, W)
    for row, image in zip(rows.tolist(), got, strict=True):
        np.testing.assert_array_equal(image, naive[row])
    out = np.full((len(rows), H, W), 77, np.uint8)
    assert store.images(rows.tolist(), out) is out
    np.testing.assert_array_equal(out, got)


def test_a_store_of_16_bits_is_read_on_the_scale_of_8_bits(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 65536, (6, 5, 7), dtype=np.uint16)
    info = DatasetInfo(labels=("A",), task="binary")
    store = store_writer.write(tmp_path / "s", images, pd.DataFrame({"A": np.arange(6) % 2}), info, shard_rows=4)
    assert (store.depth, store.size, store.manifest.format_version) == (16, (5, 7), 3)
    got = stores.open(store.path, verify="full").images([5, 0, 5])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, images[[5, 0, 5]] / 257, rtol=1e-6)
    assert store.images([1], out := np.empty((1, 5, 7), np.float32)) is out
    with pytest.raises(ValueError, match="needed is float32"):
        store.images([1], np.empty((1, 5, 7), np.uint8))
    pictures = store.pictures([2, 3])
    assert pictures.dtype == np.uint8 and pictures.tolist() == np.rint(images[2:4] / 257).tolist()


def test_images_are_writable_copies(path: Path) -> None:
    store = stores.open(path)
    got = store.images([ROWS[0]])
    got[:] = 0
    np.testing.assert_array_equal(store.images([ROWS[0]])[0], pixels()[0])


def test_unknown_rows_are_refused(path: Path) -> None:
    store = stores.open(path)
    absent = next(row for row in range(150) if row not in set(ROWS.tolist()))
    for rows in ([-1], [absent], [150], [10**12], [int(ROWS[0]), -(10**12)]):
        with pytest.raises(UserError, match=rf"has no row {rows[-1]}; store\.index\['row'\] lists"):
            store.images(rows)
    with pytest.raises(UserError, match=r"has no row -1 \(and 1 more of the requested rows are missing\)"):
        store.images([-1, int(ROWS[0]), absent])
    for wrong in ([0.5], [[1, 2]], ["a"], [True]):
        with pytest.raises(UserError, match="must be integers in one dimension"):
            store.images(wrong)
    with pytest.raises(ValueError, match="needed is uint8"):
        store.images([ROWS[0]], np.empty((1, H, W), np.float32))


def test_threads_can_share_a_store(path: Path) -> None:
    store = stores.open(path)
    wanted, wrong = pixels(), []

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


def test_a_pickled_store_reopens_its_path_and_checks_the_fingerprint(path: Path, copy: Path) -> None:
    body = pickle.dumps(stores.open(copy))
    assert len(body) < 1000
    np.testing.assert_array_equal(pickle.loads(body).images([ROWS[5]])[0], pixels()[5])
    shutil.rmtree(copy)
    store_writer.write(copy, pixels()[:3], table()[["Edema"]][:3], DatasetInfo(labels=("Edema",), task="binary"))
    with pytest.raises(UserError, match="is not the store that was opened before"):
        pickle.loads(body)


def test_a_store_without_default_labels_uses_all_labels(copy: Path) -> None:
    body = json.loads((copy / "manifest.json").read_text()) | {"default_labels": []}
    body.pop("digest")
    (copy / "manifest.json").write_bytes(
        store_format.canonical_json({**body, "digest": store_format.fingerprint_of(body)})
    )
    assert stores.open(copy).info == INFO.model_copy(update={"default_labels": INFO.labels})


def test_a_flipped_pixel_passes_the_manifest_check_but_not_the_full_one(copy: Path) -> None:
    shard = copy / "images-00000-of-00006.arrow"
    body = bytearray(shard.read_bytes())
    body[len(body) // 2] ^= 1
    shard.write_bytes(body)
    stores.open(copy)
    with pytest.raises(
        UserError,
        match=r"images-00000-of-00006.arrow: bytes changed.*; `cxr-ray verify .*ingest again into a new folder",
    ):
        stores.open(copy, verify="full")


def test_an_index_that_cannot_be_read_is_named(copy: Path) -> None:
    for change in (lambda file: file.write_bytes(b"no Parquet"), lambda file: file.unlink()):
        change(copy / "index.parquet")
        with pytest.raises(UserError, match=r"cannot read .*index\.parquet \(.*\); `cxr-ray verify"):
            stores.open(copy, verify="none")


def test_folders_that_are_not_a_store_are_refused_with_the_cause(copy: Path, tmp_path: Path) -> None:
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
    with pytest.raises(UserError, match=r"format 4.*newer cxr_ray"):
        stores.open(copy)
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        stores.open(copy)


def test_a_store_is_a_sequence_of_its_images_by_position(path: Path) -> None:
    store = stores.open_store(path)
    images, values = pixels(), table()
    positions: list[Any] = [0, 5, N - 1, -1, np.int64(7)]
    for position in positions:
        image, labels, row = store[position]
        assert image.dtype == np.uint8 and np.array_equal(image, images[position])
        assert row == ROWS[position] and list(labels) == ["Edema", "Lung Opacity"]
        np.testing.assert_equal(list(labels.values()), values[list(labels)].to_numpy()[position])
    assert [item.row for item in store] == ROWS.tolist()
    assert [item.row for item in store[-3:]] == ROWS[-3:].tolist() and store[5:5] == []
    with pytest.raises(IndexError, match=f"position {N} of a store of {N} images"):
        store[N]
    with pytest.raises(TypeError):
        store["Edema"]  # type: ignore[call-overload]


def test_a_store_stands_for_its_path(path: Path) -> None:
    store = stores.open_store(path)
    assert stores.open_store(store).fingerprint == store.fingerprint
    assert store_format.verify(store) == []


def test_a_row_is_shown_with_its_labels(path: Path) -> None:
    store = stores.open_store(path)
    figure = store.show(int(ROWS[3]))
    image, text = figure.axes
    assert np.array_equal(np.asarray(image.images[0].get_array()), pixels()[3]) and str(ROWS[3]) in image.get_title()
    assert "Lung Opacity" in text.texts[0].get_text()
    with pytest.raises(UserError, match="has no row"):
        store.show(10**6)


def test_a_notebook_shows_the_labels_of_a_store(path: Path) -> None:
    page = stores.open_store(path)._repr_html_()
    assert f"{N} images of {H} x {W}" in page and "Lung Opacity" in page and "not mentioned" in page
