"""Which images are explained: parts, classes, rows and limits of stores; pictures by path, folder and array."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import cxr_ray
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.errors import UserError
from cxr_ray.explanation.image_selection import LIMIT, select
from tests.fakes.explained import store, trained


@pytest.fixture(scope="module")
def predictor() -> cxr_ray.Predictor:
    return cxr_ray.load_predictor(trained(), gpu=False)


def test_the_default_is_the_start_of_test(predictor: cxr_ray.Predictor) -> None:
    plan = trained().plan
    found = select(predictor)
    assert found.rows.tolist() == sorted(plan.loc[plan["part"] == "test", "row"])[:LIMIT]
    assert found.name == "test" and found.store is not None
    assert select(predictor, split="val", limit=2).rows.tolist() == sorted(plan.loc[plan["part"] == "val", "row"])[:2]


def test_rows_keep_their_order_and_come_once(predictor: cxr_ray.Predictor) -> None:
    found = select(predictor, rows=[9, 3, 9])
    assert found.rows.tolist() == [9, 3]
    rows, grays = next(found.batches(8))
    assert rows.tolist() == [9, 3]
    np.testing.assert_array_equal(grays, store().images([9, 3]))


def test_batches_have_the_size(predictor: cxr_ray.Predictor) -> None:
    assert [len(rows) for rows, _ in select(predictor, split="train", limit=7).batches(3)] == [3, 3, 1]


def test_another_store_has_no_parts_and_its_own_labels(predictor: cxr_ray.Predictor, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, 30, 30), dtype=np.uint8)
    table = pd.DataFrame({"Edema": np.asarray([0, 1, 0, 1, 0, 0], np.float32)})
    other = store_writer.write(tmp_path / "other", images, table, DatasetInfo(labels=("Edema",), task="binary"))
    assert len(select(predictor, other).rows) == 6
    found = select(predictor, str(tmp_path / "other"), class_name="Edema")
    assert found.rows.tolist() == [1, 3] and found.name == "other-Edema"
    with pytest.raises(UserError, match="rows of another one have no part"):
        select(predictor, other, split="val")
    with pytest.raises(UserError, match=r"unknown label 'Edem'.*did you mean 'Edema'"):
        select(predictor, other, class_name="Edem")


def test_a_folder_is_read_in_the_order_of_its_names(predictor: cxr_ray.Predictor, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, value in (("z.png", 1), ("b/y.jpg", 2), ("a.png", 3)):
        Image.fromarray(np.full((28, 28), value * 40, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    found = select(predictor, tmp_path)
    assert [int(grays.mean()) // 38 for _, batch in found.batches(2) for grays in batch] == [3, 2, 1]
    assert found.rows.tolist() == [0, 1, 2] and found.store is None


def test_a_folder_without_images(predictor: cxr_ray.Predictor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a store nor has it an image"):
        select(predictor, tmp_path)


def test_a_file_of_weights_has_no_store() -> None:
    with pytest.raises(UserError, match="has no store"):
        select(cxr_ray.load_predictor(trained().weights, gpu=False))


def test_a_class_without_positives(predictor: cxr_ray.Predictor, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 30, 30), dtype=np.uint8)
    table = pd.DataFrame({"Edema": np.zeros(3, np.float32)})
    store_writer.write(tmp_path / "other", images, table, DatasetInfo(labels=("Edema",), task="binary"))
    with pytest.raises(UserError, match=r"no image of .*other is positive for Edema"):
        select(predictor, tmp_path / "other", class_name="Edema")
