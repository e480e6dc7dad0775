"""Class folders: splits, patients, and refused layouts."""

import os
import re
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.datasets.preview import dry_run
from cxr_ray.errors import UserError
from cxr_ray.imaging.files import Root
from tests.fakes import image_folder
from tests.fakes.pictures import picture


def load(root: Path, **options: Any) -> datasets.Records:
    return datasets.load("image_folder", root, options)


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_three_classes_are_one_hot_in_sorted_order(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Pneumonia": 2, "Covid-19": 3, "No_findings": 4})
    records = load(tmp_path)
    assert (records.info.task, records.info.labels) == ("multiclass", ("Covid-19", "No_findings", "Pneumonia"))
    assert records.table[list(records.info.labels)].sum().tolist() == [3, 4, 2]
    assert records.table["split"].isna().all() and records.table["patient"].isna().all()
    assert list(records.table["image"]) == sorted(records.table["image"])
    assert all(row[row["image"].split("/")[0]] == 1 for row in records.table.to_dict("records"))
    assert records.info.notes == ()


@pytest.mark.parametrize("names", [("Train", "Val"), ("train", "valid", "TEST"), ("training", "validation", "testing")])
def test_split_folders_in_any_case(names: tuple[str, ...], tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid": 2, "Normal": 3}, splits=names)
    records = load(tmp_path)
    assert (records.info.task, records.info.labels) == ("binary", ("Covid",))
    parts = ["train", "val", "test"][: len(names)]
    assert records.table["split"].value_counts().to_dict() == dict.fromkeys(parts, 5)
    assert records.table.groupby("split")["Covid"].sum().to_dict() == dict.fromkeys(parts, 2.0)
    by_folder = records.table["image"].str.split("/").str[0]
    assert dict(zip(by_folder, records.table["split"], strict=True)) == dict(zip(names, parts, strict=True))


def test_patients_from_a_pattern(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid": 4, "Normal": 4})
    picture(tmp_path / "Covid" / "scan.png")
    records = load(tmp_path, patient_regex=r"^p(\d+)_")
    known = dict(zip(records.table["image"], records.table["patient"], strict=True))
    assert known["Covid/p0_0.png"] == known["Covid/p0_1.png"] == "0" and known["Normal/p3_3.png"] == "3"
    assert pd.isna(known["Covid/scan.png"])
    assert records.info.notes == (
        r"the patient of 1 of 9 images is unknown: --patient-regex '^p(\\d+)_' does not name it",
    )


def test_wrong_patterns_are_refused(tmp_path: Path) -> None:
    assert "the patient must be in a group, such as ^(patient[0-9]+)_" in refusal(tmp_path, patient_regex="^p")
    assert "not a regular expression" in refusal(tmp_path, patient_regex="(")
    image_folder.write(tmp_path, {"Covid": 1, "Normal": 1})
    assert refusal(tmp_path, patient_regex="(zebra)") == (
        "--patient-regex '(zebra)' gives no patient for any of the 2 images; the first image is 'Covid/p0_0.png'"
    )
    assert refusal(tmp_path, patient_regex="(p)", patients="t.csv") == "give --patient-regex or --patients, not both"


@pytest.mark.parametrize("name", ["patients.csv", "who.csv", "who.parquet"])
def test_patients_from_a_table(name: str, tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid": 2, "Normal": 2}, pattern="{i}.png")
    table = pd.DataFrame({"file": ["Covid/0.png", "Covid/1.png", "Normal/0.png"], "patient": ["NA", "NA", "007"]})
    table.to_parquet(tmp_path / name) if name.endswith("parquet") else table.to_csv(tmp_path / name, index=False)
    records = load(tmp_path) if name == "patients.csv" else load(tmp_path, patients=name)
    assert records.table["patient"].fillna("?").tolist() == ["NA", "NA", "007", "?"]
    assert "the patient of 1 of 4 images is unknown" in records.info.notes[0]
    if name == "who.csv":  # an absolute path works too
        assert load(tmp_path, patients=str(tmp_path / name)).table["patient"].notna().sum() == 3


def test_wrong_tables_of_patients_are_refused(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid": 1, "Normal": 1})
    path = tmp_path / "patients.csv"
    path.write_text("File,patient\nCovid/p0_0.png,1\n")
    assert refusal(tmp_path) == f"{path} has no column 'file'; did you mean 'File'? Its columns: File, patient"
    path.write_text("file,patient\nother.png,1\n")
    assert refusal(tmp_path) == f"{path} gives no patient for any of the 2 images; the first image is 'Covid/p0_0.png'"
    path.write_text("file,patient\nCovid/p0_0.png,1\nCovid/p0_0.png,2\n")
    assert refusal(tmp_path) == (
        f"{path} has two patients for 'Covid/p0_0.png', in rows 0 and 1 (counted from 0); delete one row"
    )
    path.write_text("")
    assert f"cannot read {path} as a table of patients" in refusal(tmp_path)
    assert "no table of patients at" in refusal(tmp_path, patients="none.csv")


def test_an_empty_class_folder(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid": 2, "Normal": 0, "Pneumonia": 2})
    (tmp_path / "Normal" / "notes.txt").write_text("nothing here")
    assert refusal(tmp_path) == (
        f"the class folder {tmp_path / 'Normal'} has no image (.png .jpg .jpeg .bmp .tif .tiff .gif .webp .dcm .dicom); fill it or remove it"
    )


def test_an_empty_class_folder_in_one_split(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid": 2, "Normal": 2}, splits=("Train",))
    image_folder.write(tmp_path, {"Covid": 2, "Normal": 0}, splits=("Val",))
    assert f"the class folder {tmp_path / 'Val' / 'Normal'} has no image" in refusal(tmp_path)


def test_no_class_folders_and_one(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    tail = f"an image folder needs at least two: {tmp_path.name}/CLASS/image.png"
    assert refusal(tmp_path) == f"{tmp_path} has no class folders; {tail}"
    picture(tmp_path / "Covid" / "a.png")
    assert refusal(tmp_path) == f"{tmp_path} has one class folder (Covid); {tail}"


def test_splits_with_different_classes(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid": 1, "Normal": 1}, splits=("Train",))
    image_folder.write(tmp_path, {"COVID": 1, "Normal": 1}, splits=("Val",))
    assert refusal(tmp_path) == (
        "the classes of Val (COVID, Normal) differ from those of Train (Covid, Normal); add, rename or remove COVID, Covid"
    )


def test_two_folders_for_one_split_and_images_outside_the_splits(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid": 1, "Normal": 1}, splits=("Train", "val", "valid"))
    assert refusal(tmp_path) == f"{tmp_path}: val and valid mean the same part, val; keep one of them"
    image_folder.write(tmp_path / "b", {"Covid": 1, "Normal": 1}, splits=("Train",))
    picture(tmp_path / "b" / "extra" / "x.png")
    assert (
        refusal(tmp_path / "b")
        == f"{tmp_path / 'b'} mixes split folders (Train) with extra, which has images; move it elsewhere"
    )


def test_positive_chooses_the_label_of_two_classes(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Viral": 1, "Bacterial": 2})
    assert "which class is the finding? neither of 'Bacterial' and 'Viral'" in refusal(tmp_path)
    records = load(tmp_path, positive="Viral")
    assert records.info.labels == ("Viral",) and records.table["Viral"].tolist() == [0, 0, 1]
    assert "did you mean 'Viral'" in refusal(tmp_path, positive="viral")


def test_other_files_are_counted_and_hidden_files_ignored(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid": 1, "Normal": 1})
    (tmp_path / "Covid" / "a.txt").write_text("x")
    (tmp_path / "Covid" / ".DS_Store").write_text("x")
    (tmp_path / "Normal" / "._p0_1.png").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    picture(tmp_path / "Normal" / "deep" / "down" / "X.PNG")
    records = load(tmp_path)
    assert list(records.table["image"]) == ["Covid/p0_0.png", "Normal/deep/down/X.PNG", "Normal/p0_0.png"]
    assert records.info.notes == ("files in the class folders that are not images were left out: 1 .txt",)


def test_a_folder_of_masks_is_refused(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid/images": 1, "Covid/masks": 1, "Normal": 1})
    assert f"{tmp_path / 'Covid'} has a folder of masks" in refusal(tmp_path)


def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    outside = picture(tmp_path / "outside.png")
    root = image_folder.write(tmp_path / "root", {"Covid": 1, "Normal": 1})
    (root / "Covid" / "z.png").symlink_to(outside)
    assert (
        refusal(root)
        == f"{root / 'Covid' / 'z.png'} is a link out of {root.resolve()}; replace it with a copy of its target"
    )
    (root / "Covid" / "z.png").unlink()
    (root / "Covid" / "z.png").symlink_to(root / "Normal" / "p0_0.png")  # a link inside the root
    assert len(load(root).table) == 3


def test_patients_from_published_file_names(shared_data: Path, tmp_path: Path) -> None:
    """Published files of two datasets as two classes."""
    names = [p.name for p in sorted((shared_data / "covid").iterdir())][:6]
    for name in names:
        (tmp_path / "Covid-19").mkdir(exist_ok=True)
        (tmp_path / "Covid-19" / name).write_bytes((shared_data / "covid" / name).read_bytes())
    nih = pd.read_csv(shared_data / "nih" / "Data_Entry_2017_v2020.csv").head(8)
    for name in nih["Image Index"]:
        (tmp_path / "No_findings").mkdir(exist_ok=True)
        (tmp_path / "No_findings" / name).write_bytes((shared_data / "nih" / "images" / name).read_bytes())
    records = load(tmp_path, patient_regex=r"^(\d{8})_\d{3}\.png$")
    assert records.info.labels == ("Covid-19",) and records.table["Covid-19"].sum() == 6
    known = records.table.dropna(subset=["patient"])
    assert sorted(known["patient"].astype(int)) == sorted(nih["Patient ID"])


def test_patients_of_kaggles_pneumonia_folders(tmp_path: Path) -> None:
    """The pattern of docs/coming-from/what-does-what.md: a patient of every name, and the images of one child together."""
    names = {
        "PNEUMONIA": {"person1_bacteria_1": "person1", "person1_bacteria_2": "person1", "person1946_virus_4872": "person1946"},
        "NORMAL": {"IM-0115-0001": "IM-0115", "IM-0115-0002": "IM-0115", "NORMAL2-IM-0115-0001": "NORMAL2-IM-0115",
                   "NORMAL2-IM-1427-0001-0002": "NORMAL2-IM-1427"},
    }  # fmt: skip
    for folder, of in names.items():
        (tmp_path / "train" / folder).mkdir(parents=True)
        for number, name in enumerate(of):
            picture(tmp_path / "train" / folder / f"{name}.jpeg", number)
    for part in ("val", "test"):
        image_folder.write(tmp_path / part, {"NORMAL": 1, "PNEUMONIA": 1}, pattern="IM-000{patient}-0001.jpeg")
    guide = (Path(__file__).parents[2] / "docs" / "coming-from" / "what-does-what.md").read_text(encoding="utf-8")
    pattern = re.findall(r"--patient-regex '([^']+)'", guide)[0]
    records = load(tmp_path, patient_regex=pattern)
    assert records.info.labels == ("PNEUMONIA",) and records.table["patient"].notna().all()
    found = dict(zip(records.table["image"], records.table["patient"], strict=True))
    for folder, of in names.items():
        for name, patient in of.items():
            assert found[f"train/{folder}/{name}.jpeg"] == patient
    assert records.table["split"].value_counts().to_dict() == {"train": 7, "val": 2, "test": 2}


def test_names_that_are_not_utf8_and_classes_of_another_unicode_form_are_read(tmp_path: Path) -> None:
    """train of Linux, val of macOS, which decomposes é; a Latin-1 name; patients.csv has composed names."""
    forms: dict[str, Literal["NFC", "NFD"]] = {"train": "NFC", "val": "NFD"}
    for split, form in forms.items():
        for name in ("Pneumonié", "normal"):
            folder = tmp_path / split / unicodedata.normalize(form, name)
            folder.mkdir(parents=True)
            picture(folder / f"{split}.png")
    picture(tmp_path / "train" / "normal" / os.fsdecode(b"ni\xf1o.png"))
    (tmp_path / "patients.csv").write_text("file,patient\nval/Pneumonié/val.png,p1\ntrain\\normal\\ni%F1o.png,p2\n")
    records = load(tmp_path)
    assert records.info.labels == ("Pneumonié",)
    table = records.table.set_index("image")
    assert table["Pneumonié"].to_dict() == {
        "train/Pneumonié/train.png": 1, "train/normal/ni%F1o.png": 0, "train/normal/train.png": 0,
        unicodedata.normalize("NFD", "val/Pneumonié/val.png"): 1, "val/normal/val.png": 0,
    }  # fmt: skip
    assert table["patient"].dropna().tolist() == ["p2", "p1"]
    root = Root(tmp_path)
    assert all(root.read(image) for image in records.paths)
    counts = dry_run(records, tmp_path, size=(8, 8))
    assert counts.missing == 0


def test_the_other_class_of_two_is_recorded(tmp_path: Path) -> None:
    image_folder.write(tmp_path, {"Covid": 1, "Normal": 1})
    assert load(tmp_path).info.other_class == "Normal"
