"""Reading annotation files whose format their header tells, and renaming labels."""

from pathlib import Path

import pytest

from cxr_ray.datasets.annotations import Annotation, Annotations, read_annotations
from cxr_ray.errors import UserError
from cxr_ray.imaging.shapes import Box

CSV = {
    "nih": "Image Index,Finding Label,Bbox [x,y,w,h]\n1_0.png,Infiltrate,1,2,3,4\n",
    "vindr": "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\na,R1,Cardiomegaly,1,2,4,6\n",
    "phantom": "image,label,x,y,w,h\na.png,Mass,1,2,3,4\n",
    "chexmask": "image_id,Dice RCA (Mean),Left Lung,Right Lung,Heart,Height,Width\na,0.9,1 2,4 1,6 1,2,3\n",
}


@pytest.mark.parametrize("name", CSV)
def test_a_table_is_recognised_by_its_columns(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeff" + CSV[name], encoding="utf-8")
    found = read_annotations(str(tmp_path / "a.csv"))
    assert found.source == name and found.items
    assert read_annotations(str(tmp_path / "a.csv"), name).labels == found.labels


def test_unknown_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,finding\n")
    with pytest.raises(
        UserError, match=r"a.csv has the columns image, finding, which are of no known annotations \(nih:"
    ):
        read_annotations(str(tmp_path / "a.csv"))
    with pytest.raises(UserError, match="no annotations at"):
        read_annotations(str(tmp_path / "b.csv"))
    with pytest.raises(UserError, match="unknown annotation format 'nhi'; did you mean 'nih'"):
        read_annotations(str(tmp_path / "a.csv"), "nhi")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="no known annotations"):
        read_annotations(str(tmp_path / "empty.csv"))


def test_labels_are_renamed_also_where_they_are_absent() -> None:
    one = Annotations((Annotation("a", "Opacity", [Box(0, 0, 1, 1)]),), {"b": frozenset({"Opacity", "Mass"})})
    other = one.renamed({"Opacity": "Lung Opacity"})
    assert other.labels == ("Lung Opacity",) and other.absent == {"b": {"Lung Opacity", "Mass"}}
