"""A folder of DICOMs: four ways to join, counts of dropped files, and no identifier in anything that is written."""

import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.data import store as stores
from cxr_ray.data.filters import dropping_filter
from cxr_ray.datasets.preview import dry_run
from cxr_ray.datasets.pseudonyms import load_key, pseudonym
from cxr_ray.errors import UserError
from cxr_ray.imaging.decode import decode
from tests.fakes import dicom_folder as fake
from tests.fakes.dicom import SECRETS
from tests.fakes.dicom import write as dicom

IMAGES = 18  # six patients, a study of one image and one of two


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's key."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.write(tmp_path_factory.mktemp("dicom") / "export")


def load(root: Path, **options: object) -> datasets.Records:
    return datasets.load("dicom_folder", root, {"labels": ["Edema", "Mass"], **options})


def test_every_image_is_joined_and_dropped_files_are_counted_by_rule(root: Path) -> None:
    records = load(root)
    table = records.table
    assert len(table) == IMAGES and records.info.task == "multilabel" and records.info.labels == ("Edema", "Mass")
    assert records.info.notes == (
        "18 of 25 DICOMs are kept; dropped: 1 copy of another, 1 localiser, 1 no pixels, 1 not in the table, "
        "1 other body part, 1 other modality, 1 several frames",
        "files that are no DICOMs: 1 .txt",
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
    assert (dropping_filter(table, records.info.filters) == "frontal").sum() == 6


@pytest.mark.parametrize("join", ["file", "StudyInstanceUID", "AccessionNumber"])
def test_every_way_to_join_gives_the_same_records(join: str, root: Path, tmp_path: Path) -> None:
    other = fake.write(tmp_path / "export", join=join)
    expected, found = load(root), load(other)
    assert found.files is not None and expected.files is not None and found.files.tolist() == expected.files.tolist()
    pd.testing.assert_frame_equal(found.table.drop(columns="source_row"), expected.table.drop(columns="source_row"))
    labels = pd.read_csv(other / "labels.csv").rename(columns={join: "key"})
    labels.to_csv(other / "labels.csv", index=False)
    with pytest.raises(
        UserError, match=r"labels\.csv has no column with a usual name of SOPInstanceUID, .*; name it with --join"
    ):
        load(other)
    assert len(load(other, join=join, column="key").table) == IMAGES
    with pytest.raises(UserError, match=r"'kye'.*'key'"):
        load(other, join=join, column="kye")


def test_a_file_is_joined_by_its_path_name_or_stem(tmp_path: Path) -> None:
    for at, name in enumerate(("a/one.dcm", "b/two.dcm", "c/three.dcm")):
        dicom(tmp_path / name, np.full((36, 36), at, np.uint16))
    labels = pd.DataFrame({"Image": ["a/one.dcm", "two.dcm", "three"], "x": [1, 0, -1]})
    labels.to_parquet(tmp_path / "l.parquet")
    assert load(tmp_path, labels=["x"]).table["x"].tolist() == [1, 0, -1]


def test_labels_are_columns_lists_or_classes(root: Path, tmp_path: Path) -> None:
    classes = load(root, labels=[], classes="kind")
    assert classes.info.task == "binary" and classes.info.labels == ("ill",)
    assert classes.table["ill"].tolist() == [int(kind == "ill") for kind in pd.read_csv(root / "labels.csv")["kind"]]
    folder = Path(shutil.copytree(root, tmp_path / "e"))
    labels = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    labels.assign(tags=["Edema|Mass", "No Finding", ""] * 6, official=["valid", "train"] * 9).to_csv(
        folder / "labels.csv", index=False
    )
    found = load(folder, labels=[], findings="tags", split="official")
    assert found.info.labels == ("Edema", "Mass", "No Finding") and found.info.default_labels == ("Edema", "Mass")
    assert found.table[list(found.info.labels)].head(3).fillna(-9).to_numpy().tolist() == [
        [1, 1, 0],
        [0, 0, 1],
        [-9] * 3,
    ]
    assert found.table["split"].tolist() == ["val", "train"] * 9
    with pytest.raises(UserError, match="which columns contain the labels"):
        load(root, labels=[])
    with pytest.raises(UserError, match="--labels and --classes exclude each other"):
        load(root, classes="kind")
    with pytest.raises(UserError, match="not a label value"):
        load(root, labels=["kind"])
    assert load(root, labels=["kind"], values={"ill": 1, "normal": 0}).table["kind"].sum() == 9


def test_errors_of_the_join_have_one_line_without_an_identifier(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(root, tmp_path / "e"))
    labels = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    pd.concat([labels, labels.iloc[[4]]]).to_csv(folder / "labels.csv", index=False)
    with pytest.raises(
        UserError, match=r"rows 4 and 18 \(counted from 0\) have the same SOPInstanceUID; delete one"
    ) as caught:
        load(folder)
    assert "1.2.826" not in str(caught.value)
    labels.assign(SOPInstanceUID="9").head(1).to_csv(folder / "labels.csv", index=False)
    with pytest.raises(
        UserError, match=r"none of 25 DICOMs is left: .* 20 not in the table, .*; check the folder, and"
    ):
        load(folder)
    (folder / "more.csv").write_text("x")
    with pytest.raises(UserError, match=r"contains 2 tables \(labels.csv, more.csv\); choose one with --table"):
        load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no table of labels"):
        load(tmp_path / "empty")


def test_rows_without_an_image_and_damaged_files_are_counted(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(root, tmp_path / "e"))
    (folder / "Doe_0" / "study 0" / fake.uid(0, 0, 0)).unlink()
    broken = folder / "Doe_1" / "study 0" / fake.uid(1, 0, 0)
    broken.write_bytes(broken.read_bytes()[:200] + b"\xff" * 300)
    notes = load(folder).info.notes
    assert notes[1] == "2 of 18 rows of the table have no DICOM"
    assert "16 of 24 DICOMs are kept" in notes[0]


def test_every_file_is_kept_dropped_or_counted_as_another(root: Path, tmp_path: Path) -> None:
    """Without preamble: kept. Never a part of a file's name: it may be a person's."""
    folder = Path(shutil.copytree(root, tmp_path / "e"))
    image = folder / "Doe_1" / "study 0" / fake.uid(1, 0, 0)
    image.write_bytes(image.read_bytes()[132:])
    (folder / "DICOMDIR.txt").unlink()
    (folder / "Doe_1" / "scan.dcm").write_bytes(b"")
    (folder / "Doe_1" / "note.dcm").write_text("no DICOM")
    (folder / "all.ZIP").write_bytes(b"PK\3\4")
    (folder / "letter.doe").write_text("Jane Doe")
    (folder / "LICENSE").write_text("...")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "Doe_2" / "._x.dcm").write_bytes(b"\0")
    records = load(folder)
    assert records.info.notes == (
        "18 of 27 DICOMs are kept; dropped: 1 copy of another, 1 empty file, 1 localiser, 1 no pixels, 1 not a DICOM, "
        "1 not in the table, 1 other body part, 1 other modality, 1 several frames",
        "files that are no DICOMs: 1 .zip, 2 hidden, 2 of another kind",
    )
    assert sum(path.is_file() for path in folder.rglob("*")) == 27 + 5 + 1  # and the table
    pd.testing.assert_frame_equal(records.table, load(root).table)


def test_a_folder_without_dicoms_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,Edema\na.dcm,1\n")
    (tmp_path / "all.zip").write_bytes(b"PK\3\4")
    with pytest.raises(
        UserError, match=r"none of 0 DICOMs is left: there are none \(files that are no DICOMs: 1 \.zip\); check"
    ):
        load(tmp_path, labels=["Edema"])


def test_other_modalities_and_body_parts_can_be_chosen(root: Path) -> None:
    assert "1 other modality" not in load(root, modalities=["CR", "DX", "CT"]).info.notes[0]
    assert "1 other body part" not in load(root, body_parts=["CHEST", "HAND"]).info.notes[0]


# Privacy


def test_no_name_date_or_id_is_in_the_store_or_a_log(
    root: Path,
    tmp_path: Path,
    home: Path,
    ray_local: None,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from cxr_ray.cli.commands.describe import describe
    from cxr_ray.on_ray.ingest import IngestSettings, ingest

    folder = Path(shutil.copytree(root, tmp_path / "e"))
    cut = folder / "Doe_3" / "study 0" / fake.uid(3, 0, 0)
    cut.write_bytes(cut.read_bytes()[:-900])  # rejected, with its name in rejected.parquet
    records = load(folder)
    found = dry_run(records, folder, size=(16, 16))
    found.save(tmp_path / "report")
    print(found.to_text())
    with pytest.raises(UserError, match="1 of 18 images cannot be used") as caught:
        ingest(records, folder, tmp_path / "s", IngestSettings(source="dicom_folder", size=(16, 16)))
    unfinished = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    ingest(records, folder, tmp_path / "s", IngestSettings(source="dicom_folder", size=(16, 16), max_rejected=0.1))
    describe(str(tmp_path / "s"), out=tmp_path / "described")
    store = stores.open(tmp_path / "s")
    assert store.rejected()["reason"].isin(["truncated", "damaged"]).all() and len(store) == 17
    for row, picture in zip(store.index["row"], store.images(store.index["row"]), strict=True):
        assert records.files is not None
        np.testing.assert_array_equal(picture, decode((folder / records.files[row]).read_bytes(), (16, 16)).pixels)

    written = [p for place in ("s", "report", "described") for p in (tmp_path / place).rglob("*") if p.is_file()]
    assert len(written) > 15
    outputs = {str(path): path.read_bytes() for path in written} | {
        str(path): body for path, body in unfinished.items()
    }
    tables = [frame.astype(str).to_csv().encode() for frame in (store.index, store.rejected(), found.table)]
    messages = (str(caught.value) + caplog.text + "".join(capfd.readouterr())).encode()
    names = "\n".join(outputs).encode()
    searched = {**outputs, "tables": b"".join(tables), "messages": messages, "names": names}  # Parquet is compressed
    assert len(messages) > 500
    secrets = [*SECRETS.values(), *fake.secrets(), (home / "cxr_ray" / "hash.key").read_text().strip()]
    for where, body in searched.items():
        for secret in secrets:
            assert secret.encode() not in body, (where, secret)


def test_hashes_depend_only_on_the_key(root: Path, tmp_path: Path) -> None:
    one, again = load(root).table, load(root).table
    pd.testing.assert_frame_equal(one, again)
    other = load(root, key=str(tmp_path / "other.key")).table
    for column in ("patient", "study", "image"):
        assert not set(one[column]) & set(other[column])
        codes = [pd.factorize(table[column])[0].tolist() for table in (one, other)]
        assert codes[0] == codes[1]
    assert load(root, names="kept").table["image"].str.startswith("Doe_").all()


def test_the_key_is_readable_by_its_owner_only_and_outside_the_dataset(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "hash.key"
    secret = load_key(path, outside=root)
    assert len(secret) == 64 and load_key(path, outside=root) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(
        UserError, match=r"hash\.key is in the dataset's folder, where it would expose the hashes; give another file"
    ):
        load(root, key=str(root / "hash.key"))
    assert not (root / "hash.key").exists()
    path.write_text("short")
    with pytest.raises(UserError, match="shorter than 16 bytes"):
        load_key(path, outside=root)
    with pytest.raises(UserError, match="cannot read or create the key"):
        load_key(path / "below", outside=root)


def test_a_pseudonym_is_an_hmac_of_its_kind_and_identifier() -> None:
    import hashlib
    import hmac

    expected = hmac.new(b"k" * 16, b"patient\x007", hashlib.sha256).digest()[:10].hex()
    assert pseudonym("patient", "7", b"k" * 16) == expected != pseudonym("study", "7", b"k" * 16)


def test_an_anonymous_id_is_not_a_patient(tmp_path: Path) -> None:
    for at, name in enumerate(("ANONYMOUS", "", "A-1")):
        dicom(tmp_path / f"{at}.dcm", np.zeros((36, 36), np.uint16), PatientID=name, ViewPosition=None)
    pd.DataFrame({"file": ["0", "1", "2"], "x": [1, 0, 1]}).to_csv(tmp_path / "l.csv", index=False)
    records = load(tmp_path, labels=["x"])
    assert records.table["patient"].isna().tolist() == [True, True, False]
    assert (dropping_filter(records.table, records.info.filters) == "").all()  # an unknown view is not a lateral one
