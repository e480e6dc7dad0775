"""`--hash-patients`: for every source, the store contains no patient, study or file name, and the same images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.cli.commands.ingest import Ingest, plan
from cxr_ray.data import store as stores
from cxr_ray.datasets import pseudonyms
from cxr_ray.errors import UserError
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from tests.fakes.layouts import LAYOUTS, OPTIONS

SECRET = b"sixteen bytes and"


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "dicom_folder"])
def test_only_names_are_hashed(name: str, tmp_path: Path) -> None:
    root = LAYOUTS[name](tmp_path)
    plain = datasets.load(name, root, OPTIONS.get(name))
    hidden = pseudonyms.pseudonymise(plain, SECRET)
    assert hidden.paths.tolist() == plain.table["image"].tolist()
    other = [c for c in plain.table if c not in ("image", "patient", "study", "mask", "url")]
    pd.testing.assert_frame_equal(hidden.table[other], plain.table[other])
    assert (hidden.table.dtypes == plain.table.dtypes).all() and hidden.table["mask"].isna().all()
    assert hidden.table.get("url", hidden.table["mask"]).isna().all()
    for column in ("patient", "study"):  # the same groups with other names
        codes = [pd.factorize(records.table[column])[0] for records in (plain, hidden)]
        np.testing.assert_array_equal(codes[0], codes[1])
        assert not set(hidden.table[column].dropna()) & set(plain.table[column].dropna())
    assert hidden.table["image"].is_unique and hidden.table["image"].str.fullmatch(r"[0-9a-f]{20}\.\w+").all()
    assert pseudonyms.pseudonymise(plain, SECRET).table.equals(hidden.table)
    assert not set(pseudonyms.pseudonymise(plain, b"another key, as long").table["image"]) & set(hidden.table["image"])
    pd.testing.assert_series_equal(plain.table["image"], datasets.load(name, root, OPTIONS.get(name)).table["image"])


def test_records_that_their_source_hashed_are_unchanged(tmp_path: Path) -> None:
    root = LAYOUTS["dicom_folder"](tmp_path / "d")
    records = datasets.load("dicom_folder", root, {**OPTIONS["dicom_folder"], "key": str(tmp_path / "key")})
    assert pseudonyms.pseudonymise(records, SECRET) is records


def test_the_key_must_be_outside_the_dataset(tmp_path: Path) -> None:
    root = LAYOUTS["nih"](tmp_path)
    with pytest.raises(UserError, match="is in the dataset's folder"):
        plan("nih", root, None, {}, Ingest(size="32", hash_patients=True, hash_key=root / "key"))


def test_a_store_identifies_no_patient(ray_local, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = LAYOUTS["chexpert"](tmp_path / "data")
    records = datasets.load("chexpert", root)
    key = pseudonyms.load_key(tmp_path / "key", outside=root)
    hidden = pseudonyms.pseudonymise(records, key)
    ingest(hidden, root, tmp_path / "s", IngestSettings(source="chexpert", size=(16, 16), max_rejected=0.9))
    ingest(records, root, tmp_path / "plain", IngestSettings(source="chexpert", size=(16, 16), max_rejected=0.9))
    ours, theirs = stores.open(tmp_path / "s"), stores.open(tmp_path / "plain")
    assert ours.index["pixels_sha256"].tolist() == theirs.index["pixels_sha256"].tolist()
    for file in (tmp_path / "s").glob("*.parquet"):
        assert "patient0" not in pd.read_parquet(file).to_csv()
    plan("chexpert", root, None, {}, Ingest(size="16", hash_patients=True, hash_key=tmp_path / "key"))
    printed = capsys.readouterr().out
    assert f"--hash-key {tmp_path / 'key'} --hash-patients" in printed.splitlines()[-1]
