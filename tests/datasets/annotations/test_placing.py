"""Annotations on a store: joined by name, and on the pixels that the ingest stored."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.store import Store
from cxr_ray.datasets.annotations import Annotation, Annotations, marked_masks, of_store, placement, read_annotations
from cxr_ray.errors import UserError
from cxr_ray.imaging.shapes import Box

INFO = DatasetInfo(labels=("Mass", "Edema"), task="multilabel", default_labels=("Mass", "Edema"))
NAMES = ["images/1.png", "CheXpert/train/patient7/study2/view1_frontal.jpg", "a/same.png", "b/same.png"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Originals of 80 x 40 px, padded at ingest to 20 x 20: 20 x 10 px, 5 px from the left."""
    table = pd.DataFrame(
        {
            "row": [2, 5, 7, 9], "image": NAMES, "height": 80, "width": 40, "scale_y": 0.25, "scale_x": 0.25, "top": 0.0, "left": 5.0,
            "Mass": [1.0, 0.0, 1.0, 1.0], "Edema": [0.0, 1.0, np.nan, 0.0],
        }
    )  # fmt: skip
    boxes = pd.DataFrame(
        {"row": [2, 2], "label": ["Mass", "Mass"], "x": [0, 36.0], "y": [0, 8.0], "w": [8, 4.0], "h": [8, 4.0]}
    )
    return store_writer.write(tmp_path / "store", np.zeros((4, 20, 20), np.uint8), table, INFO, boxes=boxes)


def marked(image: str, label: str = "Mass") -> Annotation:
    return Annotation(image, label, [Box(8, 16, 12, 20)])


def test_stored_boxes_are_placed_on_the_padded_pixels(store: Store) -> None:
    boxes = of_store(store)
    assert boxes is not None and len(boxes.items) == 1 and boxes.items[0].image == "images/1.png"
    (mask,) = marked_masks(boxes, store).values()
    expected = np.zeros((20, 20), bool)
    expected[0:2, 5:7] = expected[2, 14] = True
    np.testing.assert_array_equal(mask, expected)
    (double,) = marked_masks(boxes, store, size=(40, 40)).values()
    np.testing.assert_array_equal(double, np.kron(expected, np.ones((2, 2), bool)))


@pytest.mark.parametrize(
    ("image", "row"),
    [
        ("images/1.png", 2), ("1.png", 2), ("1", 2), ("other/folder/1.png", 2), ("patient7_study2_view1_frontal", 5),
        ("view1_frontal.jpg", 5), ("a/same.png", 7), ("b/same.png", 9),
    ],
)  # fmt: skip
def test_an_annotation_belongs_to_the_image_of_its_name(image: str, row: int, store: Store) -> None:
    found = marked_masks(Annotations((marked(image),)), store)
    assert list(found) == [(row, "Mass")]
    assert np.argwhere(found[row, "Mass"]).tolist() == [[y, x] for y in range(4, 9) for x in range(7, 10)]


def test_a_name_of_several_images_and_annotations_of_another_dataset_are_refused(store: Store) -> None:
    with pytest.raises(UserError, match=r"'same\.png', and several images of the store have that name"):
        marked_masks(Annotations((marked("same.png"),)), store)
    with pytest.raises(
        UserError, match=r"none of the 1 annotations \(x.png, ...\) is of an image of the store \(images/1.png"
    ):
        marked_masks(Annotations((marked("x.png"),)), store)
    assert marked_masks(Annotations((marked("x.png"), marked("1.png"))), store).keys() == {(2, "Mass")}


def test_labels_and_rows_select_and_cropped_masks_are_left_out(store: Store) -> None:
    both = Annotations((marked("1.png"), marked("1.png", "Edema"), marked("a/same.png")))
    assert marked_masks(both, store, labels=["Edema"]).keys() == {(2, "Edema")}
    assert marked_masks(both, store, rows=np.array([7, 9])).keys() == {(7, "Mass")}
    outside = Annotation("1.png", "Mass", [Box(100, 100, 5, 5)])
    assert marked_masks(Annotations((outside,)), store) == {}


def test_a_store_without_boxes_has_no_annotations(tmp_path: Path) -> None:
    table = pd.DataFrame({"Mass": [1.0], "Edema": [0.0]})
    assert of_store(store_writer.write(tmp_path / "plain", np.zeros((1, 8, 8), np.uint8), table, INFO)) is None


def test_a_file_of_boxes_equals_the_stored_ones(store: Store, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("image,label,x,y,w,h\n1.png,Mass,0,0,8,8\n1.png,Mass,36,8,4,4\n")
    stored = of_store(store)
    assert stored is not None
    np.testing.assert_equal(
        marked_masks(read_annotations(str(tmp_path / "boxes.csv")), store), marked_masks(stored, store)
    )


def test_the_placement_of_a_row(store: Store) -> None:
    place = placement(store.index.iloc[0].to_dict(), store.size, (10, 10))
    assert (place.original, place.stored, place.size) == ((80, 40), (20, 20), (10, 10))
    assert place.transform == (0.25, 0.25, 0.0, 5.0)
