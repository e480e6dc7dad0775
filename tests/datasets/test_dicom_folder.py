"""A folder of DICOMs: joined four ways, dropped by rule and counted, and nobody named in anything that is written."""

import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets as module
from cxr_ray.data import store as stores
from cxr_ray.data.plan import drop_by
from cxr_ray.datasets.preview import dry_run
from cxr_ray.datasets.pseudonyms import hashed, key
from cxr_ray.errors import UserError
from cxr_ray.imaging.decode import decode
from tests.fakes import dicom_folder as fake
from tests.fakes.dicom import SECRETS
from tests.fakes.dicom import write as dicom

IMAGES = 18  # six patients, a study of one image and one of two


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the key of this test is kept."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.write(tmp_path_factory.mktemp("dicom") / "export")


def load(root: Path, **options: object) -> module.Records:
    return module.load("dicom_folder", root, {"labels": ["Edema", "Mass"], **options})


def test_every_image_is_joined_and_the_rest_is_counted_by_rule(root: Path) -> None:
    records = load(root)
    table = records.table
    assert len(table) == IMAGES and records.task == "multilabel" and records.labels == ("Edema", "Mass")
    assert records.notes == (
        "of 25 DICOMs 18 are kept, dropped by rule: 1 copy of another, 1 localiser, 1 no pixels, 1 not in the table, "
        "1 other body part, 1 other modality, 1 several frames",
    )
    assert records.files is not None and all((root / name).is_file() for name in records.files)
    labels = pd.read_csv(root / "labels.csv")
    for at, file in enumerate(records.files):
        row = labels.iloc[table["source_row"][at]]
        assert row["SOPInstanceUID"] == Path(file).name.removesuffix(".dcm")
        assert (table["Edema"][at], table["sex"][at], table["age"][at]) == (row["Edema"], row["sex"], row["age"])
        assert np.isnan(table["Mass"][at]) == np.isnan(row["Mass"])
    patient = records.files.str.extract(r"Doe_(\d)")[0]
    assert table.groupby("patient").ngroups == 6 and (table.groupby("patient")["image"].count() == 3).all()
    assert (pd.crosstab(patient, table["patient"]) > 0).sum(axis=1).eq(1).all()
    assert table["study"].nunique() == 12 and table["image"].is_unique
    assert table["view"].value_counts().to_dict() == {"PA": 12, "lateral": 6}
    assert (drop_by(table, records.filters) == "frontal").sum() == 6


@pytest.mark.parametrize("join", ["file", "StudyInstanceUID", "AccessionNumber"])
def test_it_is_joined_by_whatever_the_table_has(join: str, root: Path, tmp_path: Path) -> None:
    other = fake.write(tmp_path / "export", join=join)
    wanted, got = load(root), load(other)
    assert got.files is not None and wanted.files is not None and got.files.tolist() == wanted.files.tolist()
    pd.testing.assert_frame_equal(got.table.drop(columns="source_row"), wanted.table.drop(columns="source_row"))
    labels = pd.read_csv(other / "labels.csv").rename(columns={join: "key"})
    labels.to_csv(other / "labels.csv", index=False)
    with pytest.raises(UserError, match="no column that is called like the column that joins; say it with --join"):
        load(other)
    assert len(load(other, join=join, column="key").table) == IMAGES
    with pytest.raises(UserError, match=r"'kye'.*'key'"):
        load(other, join=join, column="kye")


def test_a_file_is_found_by_its_path_its_name_or_its_stem(tmp_path: Path) -> None:
    for at, name in enumerate(("a/one.dcm", "b/two.dcm", "c/three.dcm")):
        dicom(tmp_path / name, np.full((36, 36), at, np.uint16))
    said = pd.DataFrame({"Image": ["a/one.dcm", "two.dcm", "three"], "x": [1, 0, -1]})
    said.to_parquet(tmp_path / "l.parquet")
    assert load(tmp_path, labels=["x"]).table["x"].tolist() == [1, 0, -1]


def test_labels_come_in_columns_lists_or_classes(root: Path, tmp_path: Path) -> None:
    classes = load(root, labels=[], classes="kind")
    assert classes.task == "binary" and classes.labels == ("ill",)
    assert classes.table["ill"].tolist() == [int(kind == "ill") for kind in pd.read_csv(root / "labels.csv")["kind"]]
    folder = Path(shutil.copytree(root, tmp_path / "e"))
    labels = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    labels.assign(said=["Edema|Mass", "No Finding", ""] * 6, official=["valid", "train"] * 9).to_csv(
        folder / "labels.csv", index=False
    )
    found = load(folder, labels=[], findings="said", split="official")
    assert found.labels == ("Edema", "Mass", "No Finding") and found.default_labels == ("Edema", "Mass")
    assert found.table[list(found.labels)].head(3).fillna(-9).to_numpy().tolist() == [[1, 1, 0], [0, 0, 1], [-9] * 3]
    assert found.table["split"].tolist() == ["val", "train"] * 9
    with pytest.raises(UserError, match="which columns hold the labels"):
        load(root, labels=[])
    with pytest.raises(UserError, match="the labels stand in one of them"):
        load(root, classes="kind")
    with pytest.raises(UserError, match="no label value"):
        load(root, labels=["kind"])
    assert load(root, labels=["kind"], values={"ill": 1, "normal": 0}).table["kind"].sum() == 9


def test_what_cannot_be_joined_is_one_line_without_a_name(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(root, tmp_path / "e"))
    labels = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    pd.concat([labels, labels.iloc[[4]]]).to_csv(folder / "labels.csv", index=False)
    with pytest.raises(UserError, match="rows 4 and 18 have the same SOPInstanceUID") as caught:
        load(folder)
    assert "1.2.826" not in str(caught.value)
    labels.assign(SOPInstanceUID="9").head(1).to_csv(folder / "labels.csv", index=False)
    with pytest.raises(UserError, match=r"none of 25 DICOMs is left: .* 20 not in the table"):
        load(folder)
    (folder / "more.csv").write_text("x")
    with pytest.raises(UserError, match=r"holds 2 tables \(labels.csv, more.csv\); say which with --table"):
        load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no table of labels"):
        load(tmp_path / "empty")


def test_rows_without_a_picture_are_told_and_damaged_files_counted(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(root, tmp_path / "e"))
    (folder / "Doe_0" / "study 0" / fake.uid(0, 0, 0)).unlink()
    broken = folder / "Doe_1" / "study 0" / fake.uid(1, 0, 0)
    broken.write_bytes(broken.read_bytes()[:200] + b"\xff" * 300)
    notes = load(folder).notes
    assert notes[1] == "2 of 18 rows of the table have no DICOM here"
    assert "of 24 DICOMs 16 are kept" in notes[0]


def test_other_modalities_and_body_parts_can_be_asked_for(root: Path) -> None:
    assert "1 other modality" not in load(root, modalities=["CR", "DX", "CT"]).notes[0]
    assert "1 other body part" not in load(root, body_parts=["CHEST", "HAND"]).notes[0]


# ---- nobody is named


def test_no_name_date_or_id_reaches_the_store_or_a_log(
    root: Path,
    tmp_path: Path,
    home: Path,
    ray_local: None,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from cxr_ray.cli.commands.describe import describe
    from cxr_ray.on_ray.ingest import ingest

    folder = Path(shutil.copytree(root, tmp_path / "e"))
    cut = folder / "Doe_3" / "study 0" / fake.uid(3, 0, 0)
    cut.write_bytes(cut.read_bytes()[:-900])  # refused, with its name in rejected.parquet
    records = load(folder)
    found = dry_run(records, folder, size=(16, 16))
    found.save(tmp_path / "report")
    print(found.to_text())
    with pytest.raises(UserError, match="1 of 18 images cannot be used") as caught:
        ingest(records, folder, tmp_path / "s", source="dicom_folder", size=(16, 16))
    workshop = {
        path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()
    }  # of the unfinished ingest
    ingest(records, folder, tmp_path / "s", source="dicom_folder", size=(16, 16), max_rejected=0.1)
    describe(tmp_path / "s", out=tmp_path / "described")
    store = stores.open(tmp_path / "s")
    assert store.rejected()["reason"].isin(["truncated", "damaged"]).all() and len(store) == 17
    for row, picture in zip(store.index["row"], store.images(store.index["row"]), strict=True):
        assert records.files is not None
        np.testing.assert_array_equal(picture, decode((folder / records.files[row]).read_bytes(), (16, 16)).pixels)

    written = [p for place in ("s", "report", "described") for p in (tmp_path / place).rglob("*") if p.is_file()]
    assert len(written) > 15
    outputs = {str(path): path.read_bytes() for path in written} | {str(path): body for path, body in workshop.items()}
    columns = [
        frame.astype(str).to_csv().encode() for frame in (store.index, store.rejected(), found.table)
    ]  # uncompressed
    said = (str(caught.value) + caplog.text + "".join(capfd.readouterr())).encode()
    haystacks = {**outputs, "tables": b"".join(columns), "said": said, "names": "\n".join(outputs).encode()}
    assert len(said) > 500
    secret = [*SECRETS.values(), *fake.secrets(), (home / "cxr_ray" / "hash.key").read_text().strip()]
    for where, body in haystacks.items():
        for name in secret:
            assert name.encode() not in body, (where, name)


def test_hashes_hang_on_the_key_alone(root: Path, tmp_path: Path) -> None:
    one, again = load(root).table, load(root).table
    pd.testing.assert_frame_equal(one, again)
    other = load(root, key=str(tmp_path / "other.key")).table
    for column in ("patient", "study", "image"):
        assert not set(one[column]) & set(other[column])
        codes = [pd.factorize(table[column])[0].tolist() for table in (one, other)]
        assert codes[0] == codes[1]
    assert load(root, names="kept").table["image"].str.startswith("Doe_").all()


def test_the_key_is_its_owners_and_not_with_the_data(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "hash.key"
    secret = key(path, away_from=root)
    assert len(secret) == 64 and key(path, away_from=root) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UserError, match="lies with the data"):
        load(root, key=str(root / "hash.key"))
    assert not (root / "hash.key").exists()
    path.write_text("short")
    with pytest.raises(UserError, match="shorter than 16 bytes"):
        key(path, away_from=root)
    with pytest.raises(UserError, match="cannot read or make the key"):
        key(path / "below", away_from=root)


def test_a_hash_is_hmac_and_kinds_are_apart() -> None:
    import hashlib
    import hmac

    wanted = hmac.new(b"k" * 16, b"patient\x007", hashlib.sha256).digest()[:10].hex()
    assert hashed("patient", "7", b"k" * 16) == wanted != hashed("study", "7", b"k" * 16)


def test_an_id_that_names_nobody_is_no_patient(tmp_path: Path) -> None:
    for at, name in enumerate(("ANONYMOUS", "", "A-1")):
        dicom(tmp_path / f"{at}.dcm", np.zeros((36, 36), np.uint16), PatientID=name, ViewPosition=None)
    pd.DataFrame({"file": ["0", "1", "2"], "x": [1, 0, 1]}).to_csv(tmp_path / "l.csv", index=False)
    records = load(tmp_path, labels=["x"])
    assert records.table["patient"].isna().tolist() == [True, True, False]
    assert (drop_by(records.table, records.filters) == "").all()  # a view that is not told is no lateral one
