"""NIH ChestX-ray14: headers of two releases, official lists, boxes in pixels of the images, and errors in the table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.errors import UserError
from tests.fakes import nih

UNKNOWN_AGE = "1 of 5 ages are not between 0 and 120 years and count as unknown: row 3 (counted from 0) is the first"


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        datasets.load("nih", root)
    return str(caught.value)


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize("release", ["v2020", "2017"])
@pytest.mark.parametrize("folders", [1, 3])
def test_both_releases_in_one_folder_or_several(tmp_path: Path, release: str, folders: int) -> None:
    nih.write(tmp_path, release=release, folders=folders)
    records = datasets.load("nih", tmp_path)
    table = records.table
    assert all((tmp_path / image).is_file() for image in table["image"])
    assert [image.rpartition("/")[2] for image in table["image"]] == [row[0] for row in nih.ROWS]
    assert table["patient"].tolist() == ["1", "1", "2", "3", "3"]
    assert table["study"].tolist() == ["1/0", "1/1", "2/0", "3/0", "3/1"]
    assert table["age"].tolist()[:3] == [58, 58, 81] and np.isnan(
        table["age"].iloc[3]
    )  # 414 years are an error in the table
    assert table["sex"].tolist() == ["M", "M", "M", "F", "F"] and table["view"].tolist()[2] == "AP"
    assert len(records.info.default_labels) == 14 and records.info.labels == (
        *records.info.default_labels,
        "No Finding",
    )
    for row, (_, findings, *_) in zip(table.to_dict("records"), nih.ROWS, strict=True):
        assert [label for label in records.info.labels if row[label] == 1] == sorted(findings.split("|"))
    assert not table[list(records.info.labels)].isna().any().any()


def test_the_official_lists_are_the_split_and_split_no_patient(tmp_path: Path) -> None:
    table = datasets.read("nih", nih.write(tmp_path))
    assert table["split"].tolist() == ["train", "train", "train", "test", "test"]
    parts = table.groupby("patient")["split"].nunique()
    assert (parts == 1).all()


def test_without_lists_or_boxes(tmp_path: Path) -> None:
    records = datasets.load("nih", nih.write(tmp_path, lists=False, boxes=False))
    assert records.table["split"].isna().all() and records.boxes is None
    assert records.info.notes == (UNKNOWN_AGE,)


def test_an_image_in_no_list_is_counted_and_one_in_both_is_refused(tmp_path: Path) -> None:
    nih.write(tmp_path)
    edit(tmp_path / "test_list.txt", "00000003_001.png\n", "")
    records = datasets.load("nih", tmp_path)
    assert records.table["split"].isna().tolist() == [False, False, False, False, True]
    assert records.info.notes == ("1 of 5 images are in no official list", UNKNOWN_AGE)
    with (tmp_path / "test_list.txt").open("a") as file:
        file.write("00000001_000.png\r\n")
    assert refusal(tmp_path) == (
        f"{tmp_path}: 00000001_000.png is in both train_val_list.txt and test_list.txt; download the lists again"
    )


@pytest.mark.parametrize(("side", "scale"), [(1024, 1.0), (64, 1 / 16)])
def test_boxes_are_in_pixels_of_the_images(tmp_path: Path, side: int, scale: float) -> None:
    boxes = datasets.load("nih", nih.write(tmp_path, side=side)).boxes
    assert boxes is not None
    for row, (image, finding, *sides) in zip(boxes.to_dict("records"), nih.BOXES, strict=True):
        assert nih.ROWS[row["row"]][0] == image
        assert row["label"] == finding.replace("Infiltrate", "Infiltration")
        assert [row[side] for side in "xywh"] == [value * scale for value in sides]


def test_a_box_of_another_image_or_finding(tmp_path: Path) -> None:
    nih.write(tmp_path)
    path = edit(tmp_path / "BBox_List_2017.csv", "00000001_000.png", "00000009_000.png")
    records = datasets.load("nih", tmp_path)
    assert records.boxes is not None and records.boxes["row"].tolist() == [3]
    assert records.info.notes == (UNKNOWN_AGE, "1 boxes are of images that the table does not list")
    edit(path, "Infiltrate", "Infiltrates")
    assert refusal(tmp_path).startswith("unknown label 'Infiltrates' in the boxes of nih; did you mean 'Infiltration'?")


def test_wrong_findings_are_refused(tmp_path: Path) -> None:
    nih.write(tmp_path)
    path = edit(tmp_path / "Data_Entry_2017_v2020.csv", "Hernia|Infiltration", "Hernia|Infiltrate")
    assert refusal(tmp_path).startswith(
        f"{path}, row 3 (counted from 0): unknown finding 'Infiltrate' in 'Finding Labels'; did you mean 'Infiltration'? "
        "known: Atelectasis, "
    )
    edit(path, "Hernia|Infiltrate", "No Finding|Hernia")
    assert refusal(tmp_path) == (
        f"{path}, row 3 (counted from 0): 'Finding Labels' is 'No Finding|Hernia': 'No Finding' together with a finding; "
        "correct the cell, or download the file again"
    )
    edit(path, "No Finding|Hernia", "")
    assert refusal(tmp_path) == (
        f"{path}, row 3 (counted from 0): 'Finding Labels' is blank; write 'No Finding' if there is no finding, "
        "or download the file again"
    )


def test_the_parent_folder_is_refused_with_the_right_folder(tmp_path: Path) -> None:
    nih.write(tmp_path / "nih")
    assert refusal(tmp_path) == f"no Data_Entry_2017*.csv in {tmp_path}; it is in {tmp_path / 'nih'}: give that folder"


def test_the_published_table(shared_data: Path, tmp_path: Path) -> None:
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
        (tmp_path / name).write_bytes((shared_data / "nih" / name).read_bytes())
    records = datasets.load("nih", tmp_path)
    raw = pd.read_csv(tmp_path / "Data_Entry_2017_v2020.csv")
    assert len(records.table) == len(raw) == 658 and records.boxes is not None and len(records.boxes) == 27
    for label in records.info.labels:
        expected = [label in cell.split("|") for cell in raw["Finding Labels"]]
        assert (records.table[label] == 1).tolist() == expected
    assert records.table["patient"].tolist() == [str(p) for p in raw["Patient ID"]]


def test_ages_of_both_releases_in_one_column(tmp_path: Path) -> None:
    nih.write(tmp_path)
    path = edit(tmp_path / "Data_Entry_2017_v2020.csv", ",1,58,M", ",1,058Y,M")
    edit(path, ",2,81,M", ",2,003M,M")
    assert datasets.read("nih", tmp_path)["age"].fillna(-1).tolist() == [58, 58, 0.25, -1, 75]
    edit(path, ",3,75,F", ",3,unclear,F")
    assert refusal(tmp_path) == (
        f"{path}, row 4 (counted from 0): 'Patient Age' is 'unclear', not an age such as 58, 058Y or 3M; correct the cell, or "
        "download the file again"
    )


@pytest.mark.parametrize("ends", [("", ""), (",,,", ",,,"), ("", ",,,")])
def test_boxes_in_rows_that_are_shorter_than_the_header(tmp_path: Path, ends: tuple[str, str]) -> None:
    expected = datasets.load("nih", nih.write(tmp_path, side=1024)).boxes
    lines = [",".join(map(str, box)) + end for box, end in zip(nih.BOXES, ends, strict=True)]
    (tmp_path / "BBox_List_2017.csv").write_text("\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *lines]))
    found = datasets.load("nih", tmp_path).boxes
    assert found is not None and expected is not None
    pd.testing.assert_frame_equal(found, expected)
