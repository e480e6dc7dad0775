"""The ieee8023 collection: early and late tables, findings that are paths, CT among X-rays."""

from pathlib import Path

import numpy as np
import pytest

from cxr_ray import datasets
from cxr_ray.data import plan
from cxr_ray.errors import UserError
from tests.fakes import covid_chestxray


def test_the_late_release(tmp_path: Path) -> None:
    records = datasets.load("covid_chestxray", covid_chestxray.write(tmp_path))
    table = records.table
    assert records.labels == ("COVID-19", "No Finding", "Pneumonia", "SARS", "Viral")
    assert records.default_labels == ("COVID-19", "Pneumonia", "SARS", "Viral")
    assert table["COVID-19"].tolist()[:4] == [1, 1, 0, 0] and table["Viral"].tolist()[:4] == [1, 1, 1, 0]
    assert table.loc[4, list(records.labels)].isna().all()  # todo: nobody looked yet
    assert table["source_row"].tolist() == [0, 1, 2, 3, 4, 5]  # the volume is line 6
    assert table["view"].tolist() == ["PA", "AP supine", "lateral", "AP", "PA", "Axial"]
    assert table["source"].fillna("-").tolist() == [
        "nejm.org",
        "nejm.org",
        "pubs.rsna.org",
        "radiopaedia.org",
        "-",
        "radiopaedia.org",
    ]
    assert table["patient"].tolist()[:3] == ["2", "2", "4"] and np.isnan(table["age"].iloc[2])
    assert records.notes[1] == "1 CT volumes (.nii) of the table are no pictures and were left out"


def test_the_declared_cleaning_keeps_frontal_x_rays(tmp_path: Path) -> None:
    records = datasets.load("covid_chestxray", covid_chestxray.write(tmp_path))
    assert plan.drop_by(records.table, records.filters).tolist() == ["", "", "frontal", "", "", "X-ray"]


def test_the_early_release(tmp_path: Path) -> None:
    records = datasets.load("covid_chestxray", covid_chestxray.write(tmp_path, early=True))
    table = records.table
    assert records.labels == ("ARDS", "COVID-19", "No Finding", "SARS")
    assert table["ARDS"].tolist()[:3] == [1, 1, 0]
    assert table["modality"].tolist() == ["X-ray"] * 5 + ["CT"]
    assert table["source"].iloc[0] == "nejm.org" and table["patient"].iloc[0] == "2"
    assert all((tmp_path / image).is_file() for image in table["image"]) and len(records.notes) == 1


def test_no_table_and_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError) as said:
        datasets.load("covid_chestxray", tmp_path)
    assert str(said.value) == f"no metadata.csv in {tmp_path}; give the folder that holds it"
    path = covid_chestxray.write(tmp_path) / "metadata.csv"
    path.write_text(path.read_text().replace("finding", "findings", 1))
    with pytest.raises(UserError) as said:
        datasets.load("covid_chestxray", tmp_path)
    assert str(said.value).startswith(
        f"{path} has no column 'finding'; did you mean 'findings'? Its columns: patientid, "
    )
