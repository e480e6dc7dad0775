"""MIMIC-CXR-JPG: labels of studies for all their images, two labelers, the official split in another order."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.data import filters
from cxr_ray.errors import UserError
from tests.fakes import mimic_cxr


@pytest.mark.parametrize("gzip", [True, False])
@pytest.mark.parametrize("labeler", ["chexpert", "negbio"])
def test_every_image_of_a_study_has_its_labels(tmp_path: Path, labeler: str, gzip: bool) -> None:
    records = datasets.load("mimic_cxr", mimic_cxr.write(tmp_path, gzip=gzip), {"labeler": labeler})
    table = records.table
    assert list(records.info.labels) == mimic_cxr.LABELS
    labels_of = {study: at[labeler == "negbio"] for _, study, *at in mimic_cxr.STUDIES}
    for row, (dicom, patient, study, _, split) in zip(table.to_dict("records"), mimic_cxr.IMAGES, strict=True):
        assert row["image"] == f"files/p{str(patient)[:2]}/p{patient}/s{study}/{dicom}.jpg"
        assert (tmp_path / row["image"]).is_file()
        assert (row["patient"], row["study"]) == (f"p{patient}", f"s{study}")
        assert row["split"] == {"validate": "val"}.get(split, split)
        expected = [labels_of.get(study, {}).get(label, np.nan) for label in mimic_cxr.LABELS]
        np.testing.assert_array_equal([row[label] for label in mimic_cxr.LABELS], expected)
    assert table["labelled"].tolist() == [True, True, True, True, False]
    assert records.info.notes == (f"1 images are of studies that {labeler} did not label",)


def test_the_declared_cleaning_and_the_groups(tmp_path: Path) -> None:
    records = datasets.load("mimic_cxr", mimic_cxr.write(tmp_path))
    assert filters.dropping_filter(records.table, records.info.filters).tolist() == [
        "",
        "frontal",
        "",
        "frontal",
        "labelled",
    ]
    assert set(records.info.labels) - set(records.info.default_labels) == {"No Finding", "Support Devices"}
    assert len(records.info.groups["competition5"]) == 5
    assert records.table["view"].fillna("-").tolist() == ["PA", "lateral", "AP", "-", "AP"]


def test_a_study_listed_twice_and_an_image_in_no_part(tmp_path: Path) -> None:
    mimic_cxr.write(tmp_path, gzip=False)
    path = tmp_path / "mimic-cxr-2.0.0-chexpert.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    pd.concat([table, table.iloc[:1]]).to_csv(path, index=False)
    with pytest.raises(UserError) as caught:
        datasets.load("mimic_cxr", tmp_path)
    assert (
        str(caught.value) == f"{path} lists the study s50414267 twice, in rows 0 and 3 (counted from 0); delete one row"
    )
    table.to_csv(path, index=False)
    split = tmp_path / "mimic-cxr-2.0.0-split.csv"
    pd.read_csv(split, dtype=str).iloc[:-1].to_csv(split, index=False)
    assert datasets.read("mimic_cxr", tmp_path)["split"].isna().tolist() == [True, False, False, False, False]


def test_an_unknown_label_value_and_an_unknown_part(tmp_path: Path) -> None:
    mimic_cxr.write(tmp_path, gzip=False)
    path = tmp_path / "mimic-cxr-2.0.0-chexpert.csv"
    text = path.read_text()
    path.write_text(text.replace("1.0", "2.0", 1))
    with pytest.raises(UserError) as caught:
        datasets.load("mimic_cxr", tmp_path)
    assert str(caught.value) == (
        f"{path}, row 0 (counted from 0): 'No Finding' is '2.0', which is not a label value; known: 1, 0, -1, true, false "
        "and blank; correct the cell, or download the file again"
    )
    path.write_text(text)
    split = tmp_path / "mimic-cxr-2.0.0-split.csv"
    split.write_text(split.read_text().replace("validate", "validat"))
    with pytest.raises(
        UserError, match=r"split.csv, row 1 \(counted from 0\): 'split' is 'validat', not one of train, "
    ):
        datasets.load("mimic_cxr", tmp_path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    mimic_cxr.write(tmp_path)
    (tmp_path / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
    assert len(datasets.read("mimic_cxr", tmp_path)) == 5  # negbio is not used
    with pytest.raises(UserError) as caught:
        datasets.load("mimic_cxr", tmp_path, {"labeler": "negbio"})
    assert str(caught.value) == f"no mimic-cxr-*-negbio.csv* in {tmp_path}; give the folder that contains it"
