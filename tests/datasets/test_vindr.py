"""VinDr-CXR: combined labels of three readers, boxes in pixels of the images, DICOM or converted files."""

from pathlib import Path

import numpy as np
import pytest

from cxr_ray import datasets
from cxr_ray.errors import UserError
from tests.fakes import vindr


def combined(votes: list[bool], how: str) -> float:
    """The combined label by its definition."""
    positive = sum(votes)
    if how == "uncertain" and 0 < positive < len(votes):
        return -1.0
    above = {"majority": len(votes) / 2, "any": 0, "all": len(votes) - 1, "uncertain": len(votes) - 1}[how]
    return float(positive > above)


@pytest.mark.parametrize("how", ["majority", "any", "all", "uncertain"])
def test_labels_of_readers_are_combined(tmp_path: Path, how: str) -> None:
    records = datasets.load("vindr", vindr.write(tmp_path), {"readers": how})
    table = records.table
    seen = {image: list(readers.values()) for image, readers in vindr.TRAIN.items()}
    seen |= {image: [findings] for image, findings in vindr.TEST.items()}
    assert [Path(image).stem for image in table["image"]] == list(seen)
    for row in table.to_dict("records"):
        readers = seen[Path(row["image"]).stem]
        for name, label in zip(vindr.NAMES, records.info.labels, strict=True):
            assert row[label] == combined([name in findings for findings in readers], how)
    assert table["readers"].tolist() == [3, 3, 3, 1, 1]
    assert table["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert table["source_row"].tolist() == [0, 3, 6, 0, 1]
    assert "Nodule_Mass" in records.info.labels and "No finding" not in records.info.default_labels


@pytest.mark.parametrize("kind", ["png", "jpg", "dicom"])
def test_dicom_and_converted_files(tmp_path: Path, kind: str) -> None:
    records = datasets.load("vindr", vindr.write(tmp_path, kind=kind))
    assert all(image.endswith(f".{kind}") and (tmp_path / image).is_file() for image in records.table["image"])
    boxes = records.boxes
    assert boxes is not None  # of the majority's labels: the third image's edema was one reader's
    assert boxes[["row", "label"]].to_numpy().tolist() == [[1, "Nodule_Mass"], [1, "Nodule_Mass"], [3, "Cardiomegaly"]]
    assert boxes[list("xywh")].to_numpy().tolist() == [[100, 200, 60, 40], [110, 200, 360, 190], [40, 80, 200, 300]]


def test_boxes_of_smaller_images_are_scaled_or_dropped(tmp_path: Path) -> None:
    original = datasets.load("vindr", vindr.write(tmp_path / "original")).boxes
    scaled = datasets.load("vindr", vindr.write(tmp_path / "half", scale=2, meta=True)).boxes
    assert original is not None and scaled is not None
    np.testing.assert_allclose(scaled[list("xywh")], original[list("xywh")] / 2)
    records = datasets.load("vindr", vindr.write(tmp_path / "unknown", scale=2))
    assert records.boxes is not None and records.boxes.empty
    assert records.info.notes[1] == (
        "3 boxes were dropped: the images are smaller than the DICOMs in which the boxes were drawn, and there is no *_meta.csv "
        "(image_id, dim0, dim1) with the sizes of the DICOMs"
    )


def test_tables_in_the_root_and_no_boxes(tmp_path: Path) -> None:
    vindr.write(tmp_path)
    for path in (tmp_path / "annotations").glob("image_labels_*"):
        path.rename(tmp_path / path.name)
    for path in (tmp_path / "annotations").iterdir():
        path.unlink()
    (tmp_path / "annotations").rmdir()
    records = datasets.load("vindr", tmp_path)
    assert len(records.table) == 5 and records.boxes is None


@pytest.mark.parametrize("how", ["majority", "any", "all", "uncertain"])
def test_labels_from_kaggle_s_table_of_boxes(tmp_path: Path, how: str) -> None:
    records = datasets.load("vindr", vindr.write_kaggle(tmp_path), {"readers": how})
    table = records.table
    assert len(records.info.labels) == 15 and table["image"].tolist() == [
        f"train/{image}.dicom" for image in vindr.KAGGLE
    ]
    for row, readers in zip(table.to_dict("records"), vindr.KAGGLE.values(), strict=True):
        for name in ("Nodule/Mass", "ILD", "Cardiomegaly", "No finding", "Atelectasis"):
            votes = [name in seen for seen in readers.values()]
            assert row[name.replace("/", "_")] == combined(votes, how), (name, row)
    assert table["readers"].tolist() == [3, 3, 3] and table["source_row"].tolist() == [0, 3, 10]
    assert table["split"].isna().all()  # the test part has no labels: no official split
    boxes = records.boxes
    assert boxes is not None and (boxes[list("xywh")].to_numpy() == [10, 20, 50, 30]).all()
    assert len(boxes) == {"majority": 6, "any": 8, "all": 0, "uncertain": 0}[how]  # of 4 nodules, 2 ILD and 2 hearts


def test_an_unknown_class_in_kaggle_s_table(tmp_path: Path) -> None:
    file = vindr.write_kaggle(tmp_path) / "train.csv"
    file.write_text(file.read_text().replace("ILD", "IDL"))
    with pytest.raises(
        UserError, match=r"unknown finding 'IDL' in .*train.csv, row 7 \(counted from 0\); did you mean 'ILD'\?"
    ):
        datasets.load("vindr", tmp_path)


def test_an_unknown_finding_and_an_unknown_label_value(tmp_path: Path) -> None:
    notes = vindr.write(tmp_path) / "annotations"
    boxes, text = notes / "annotations_train.csv", (notes / "annotations_train.csv").read_text()
    boxes.write_text(text.replace("Edema", "Edemas"))
    with pytest.raises(
        UserError,
        match=r"unknown finding 'Edemas' in .*annotations_train.csv, row 3 \(counted from 0\); did you mean 'Edema'\?",
    ):
        datasets.load("vindr", tmp_path)
    boxes.write_text(text)
    labels = notes / "image_labels_train.csv"
    labels.write_text(labels.read_text().replace("R6,0,", "R6,2,", 1))
    with pytest.raises(UserError) as caught:
        datasets.load("vindr", tmp_path)
    assert str(caught.value) == (
        f"{labels}, row 0 (counted from 0): 'Aortic enlargement' is '2', which is not a label value; known: 1, 0 and blank; "
        "correct the cell, or download the file again"
    )
