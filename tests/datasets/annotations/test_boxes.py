"""Boxes of NIH, VinDr and the phantom's table."""

from pathlib import Path

import pytest

from cxr_ray.datasets.annotations import read_annotations
from cxr_ray.errors import UserError
from cxr_ray.imaging.shapes import Box
from cxr_ray.labels import safe_name


def write(folder: Path, text: str) -> str:
    (folder / "boxes.csv").write_text(text)
    return str(folder / "boxes.csv")


def test_nihs_boxes_are_in_a_frame_of_1024_pixels(tmp_path: Path) -> None:
    lines = "Image Index,Finding Label,Bbox [x,y,w,h]\n1.png,Infiltrate,10.5,20,30,40\n1.png,Mass,1,2,3,4\n"
    first, second = read_annotations(write(tmp_path, lines)).items
    assert (first.image, first.label, first.frame) == ("1.png", "Infiltration", (1024, 1024))
    assert first.parts() == [Box(10.5, 20, 30, 40)] and second.label == "Mass"


def test_the_boxes_of_vindrs_readers_join_and_rows_without_a_box_are_left_out(tmp_path: Path) -> None:
    lines = (
        "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\na,R1,Nodule/Mass,1,2,4,6\nb,R1,No finding,,,,\n"
        "a,R2,Nodule/Mass,2,2,5,6\n"
    )
    (only,) = read_annotations(write(tmp_path, lines)).items
    assert (only.image, only.label, only.frame) == ("a", safe_name("Nodule/Mass"), None)
    assert only.parts() == [Box(1, 2, 3, 4), Box(2, 2, 3, 4)]


@pytest.mark.parametrize("cells", ["1,2,0,4", "1,2,3,-4", "1,2,,4", "1,2,3,"])
def test_a_box_without_an_area_is_refused(cells: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"boxes.csv, row 0 \(counted from 0\): the box of 'a.png' is"):
        read_annotations(write(tmp_path, f"image,label,x,y,w,h\na.png,Mass,{cells}\n"))


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'y_min'"):
        read_annotations(write(tmp_path, "image_id,class_name,x_min\n"), "vindr")
    with pytest.raises(UserError, match="has 4 columns, not six"):
        read_annotations(write(tmp_path, "Image Index,Finding Label,Bbox [x,y\n"), "nih")
