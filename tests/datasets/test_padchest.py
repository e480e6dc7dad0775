"""PadChest: lists of findings as text, numbered folders, reports without information."""

from pathlib import Path

import numpy as np
import pytest

from cxr_ray import datasets
from cxr_ray.data import filters
from cxr_ray.errors import UserError
from tests.fakes import padchest


@pytest.mark.parametrize("gzip", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_the_published_table(tmp_path: Path, flat: bool, gzip: bool) -> None:
    records = datasets.load("padchest", padchest.write(tmp_path, flat=flat, gzip=gzip))
    table = records.table
    assert records.info.labels == (
        "chronic changes", "exclude", "fracture", "kyphosis", "normal", "pulmonary fibrosis", "rib fracture", "unchanged",
    )  # fmt: skip
    assert records.info.default_labels == (
        "chronic changes",
        "fracture",
        "kyphosis",
        "pulmonary fibrosis",
        "rib fracture",
    )
    assert all((tmp_path / image).is_file() for image in table["image"])
    assert [Path(image).name for image in table["image"]] == [row[0] for row in padchest.ROWS]
    assert table["kyphosis"].tolist()[:3] == [1, 1, 0]
    assert table["kyphosis"].isna().tolist() == [False, False, False, True, True, False]  # unchanged; no list
    assert table["unchanged"].tolist()[:4] == [0, 0, 0, 1] and np.isnan(table["unchanged"].iloc[4])
    assert table["told"].tolist() == [True, True, True, False, False, True]
    assert table["view"].tolist() == ["lateral", "PA", "PA", "AP supine", "PA", "ribs"]
    assert table["age"].fillna(-1).tolist() == [84, 84, 50, -1, 59, 59]
    assert table["labelled_by"].tolist()[:3] == ["Physician", "Physician", "RNN_model"]
    assert filters.dropping_filter(table, records.info.filters).tolist() == [
        "frontal",
        "",
        "",
        "told",
        "told",
        "frontal",
    ]


def test_rare_findings_can_be_left_out(tmp_path: Path) -> None:
    padchest.write(tmp_path)
    assert datasets.load("padchest", tmp_path, {"min_images": 2}).info.labels == (
        "chronic changes",
        "kyphosis",
        "pulmonary fibrosis",
    )
    with pytest.raises(UserError) as caught:
        datasets.load("padchest", tmp_path, {"min_images": 9})
    assert (
        str(caught.value)
        == "padchest: no label column is left; see the options that select labels with `cxr-ray sources padchest`"
    )


def test_a_cell_that_is_not_a_list(tmp_path: Path) -> None:
    path = next(padchest.write(tmp_path).glob("*.csv"))
    path.write_text(path.read_text().replace("['normal']", "['normal'"))
    with pytest.raises(UserError) as caught:
        datasets.load("padchest", tmp_path)
    assert str(caught.value) == (
        f"{path}, row 2 (counted from 0): 'Labels' is \"['normal'\", not a list such as ['normal']; "
        "correct the cell, or download the file again"
    )


def test_a_missing_image_keeps_its_folder(tmp_path: Path) -> None:
    padchest.write(tmp_path)
    (tmp_path / "36" / padchest.ROWS[4][0]).unlink()
    assert datasets.read("padchest", tmp_path)["image"].iloc[4] == f"36/{padchest.ROWS[4][0]}"


def test_cells_that_an_export_wrote_as_nan_are_blank(tmp_path: Path) -> None:
    path = next(padchest.write(tmp_path).glob("*.csv"))
    text = path.read_text().replace("['normal']", "nan").replace(",M,PA,", ",nan,PA,")
    path.write_text(text)
    table = datasets.read("padchest", tmp_path)
    assert table["told"].tolist() == [True, True, False, False, False, True]
    assert table["sex"].isna().tolist() == [False, False, True, False, False, False]


def test_a_kind_of_a_finding_counts_as_it_and_a_related_one_makes_it_unknown(tmp_path: Path) -> None:
    path = next(padchest.write(tmp_path).glob("*.csv"))
    text = path.read_text().replace("['normal']", "\"['laminar atelectasis', 'scoliosis']\"")
    path.write_text(text.replace("'chronic changes'", "'thoracic cage deformation'"))
    records = datasets.load("padchest", tmp_path)
    table = records.table
    assert table["atelectasis"].tolist()[:3] == [0, 0, 1]
    assert table["laminar atelectasis"].tolist()[:3] == [0, 0, 1]
    assert table["thoracic cage deformation"].fillna(9).tolist()[:3] == [1, 1, 9]
    assert table["fracture"].iloc[5] == 1 and np.isnan(table["fracture"].iloc[3])  # unchanged: no finding is mentioned
    assert records.info.notes[0] == (
        "the table names only the most special finding: 2 cells of 2 labels are positive because a kind of the finding is named"
    )
    assert (
        records.info.notes[1]
        == "1 cells of 1 labels are unknown, because only a related finding is named, and are masked"
    )


def test_dates_are_read_in_any_usual_form(tmp_path: Path) -> None:
    path = next(padchest.write(tmp_path).glob("*.csv"))
    path.write_text(path.read_text().replace("20150914", "2015-09-14").replace("20131020", "20131020.0"))
    assert datasets.read("padchest", tmp_path)["age"].fillna(-1).tolist() == [84, 84, 50, -1, 59, 59]
    path.write_text(path.read_text().replace("2015-09-14", "last year"))
    with pytest.raises(UserError) as caught:
        datasets.load("padchest", tmp_path)
    assert str(caught.value) == (
        f"{path}, row 2 (counted from 0): 'StudyDate_DICOM' is 'last year', not a year or a date such as 20140915 or 2014-09-15; "
        "correct the cell, or download the file again"
    )
