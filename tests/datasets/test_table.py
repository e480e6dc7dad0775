"""Any table: label columns, lists of findings, classes, value maps, labels by study, and errors of one line."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.cli.commands import ingest
from cxr_ray.errors import UserError
from tests.fakes import table as fake


def write(root: Path, text: str, name: str = "images.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode())
    return root


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        datasets.load("table", root, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("apart", [False, True])
def test_label_columns_with_a_value_map(tmp_path: Path, kind: str, apart: bool) -> None:
    fake.write(tmp_path, kind=kind, apart=apart)
    options = fake.OPTIONS | ({"table": f"images.{kind}", "label_table": "labels.csv"} if apart else {})
    records = datasets.load("table", tmp_path, options)
    found = records.table
    assert records.info.task == "multilabel" and records.info.labels == ("Edema", "Rib_Fracture")
    for row, (image, patient, study, *_) in zip(found.to_dict("records"), fake.IMAGES, strict=True):
        assert row["image"] == f"pictures/{image}" and (tmp_path / row["image"]).is_file()
        assert (row["patient"], row["study"]) == (patient, study)  # 007 and NA are names of patients
        expected = [{"Y": 1.0, "N": 0.0, "U": -1.0, "": np.nan}[cell] for cell in fake.LABELS[study]]
        np.testing.assert_array_equal([row["Edema"], row["Rib_Fracture"]], expected)
    assert found["split"].tolist() == ["train", "train", "val", "test"]
    assert found["age"].fillna(-1).tolist() == [50, 50, -1, 61] and records.info.features == ("view",)


def test_columns_with_other_names(tmp_path: Path) -> None:
    text = "file,case,visit,PA,Part\nx,p1,v1,1,Dev\ny,p2,v2,0,\n"
    records = datasets.load(
        "table", write(tmp_path, text), {"image": "file", "extension": ".png", "patient": "case", "study": "visit", "split": "Part", "labels": ["PA"]}
    )  # fmt: skip
    assert records.table["image"].tolist() == ["x.png", "y.png"]
    assert records.table["patient"].tolist() == ["p1", "p2"] and records.table["split"].fillna("-").tolist() == [
        "val",
        "-",
    ]


def test_lists_of_findings(tmp_path: Path) -> None:
    write(tmp_path, "image,tags\na.png,Edema|Mass\nb.png,No Finding\nc.png,\nd.png, Mass | None \n")
    records = datasets.load("table", tmp_path, {"findings": "tags"})
    assert records.info.labels == ("Edema", "Mass", "No Finding", "None") and records.info.default_labels == (
        "Edema",
        "Mass",
        "None",
    )
    assert records.table["Mass"].fillna(-9).tolist() == [1, 0, -9, 1]
    write(tmp_path, "image,tags\na.png,Edema; Mass\n")
    assert datasets.load("table", tmp_path, {"findings": "tags", "separator": ";"}).info.labels == ("Edema", "Mass")


def test_a_class_may_be_called_none_or_na(tmp_path: Path) -> None:
    write(tmp_path, "image,kind\na.png,None\nb.png,NA\nc.png,Covid\n")
    records = datasets.load("table", tmp_path, {"classes": "kind"})
    assert records.info.task == "multiclass" and records.info.labels == ("Covid", "NA", "None")
    assert records.table[["Covid", "NA", "None"]].to_numpy().tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    write(tmp_path, "image,kind\na.png,None\nb.png,Covid\n")
    assert refusal(tmp_path, classes="kind").startswith("which class is the finding?")
    records = datasets.load("table", tmp_path, {"classes": "kind", "positive": "Covid"})
    assert records.info.task == "binary" and records.table["Covid"].tolist() == [0, 1]


@pytest.mark.parametrize("cell", ["1", "1.0", " 1 ", "True", "TRUE"])
def test_label_values_without_a_map(tmp_path: Path, cell: str) -> None:
    write(tmp_path, f"image,A\na.png,{cell}\nb.png,0\nc.png,-1.0\nd.png,\ne.png,NA\nf.png,None\n")
    assert datasets.read("table", tmp_path, labels=["A"])["A"].fillna(9).tolist() == [1, 0, -1, 9, 9, 9]


def test_an_unknown_label_value_is_refused_with_the_option_that_maps_it(tmp_path: Path) -> None:
    path = write(tmp_path, "image,A\na.png,Y\nb.png,N\n") / "images.csv"
    assert refusal(tmp_path, labels=["A"]) == (
        f"{path}, row 0 (counted from 0): 'A' is 'Y', which is not a label value; known: 1, 0, -1, true, false and blank; "
        "give its meaning with --values.'Y' 1 (or 0, -1, null)"
    )
    assert refusal(tmp_path, labels=["A"], values={"Y": 1}) == (
        f"{path}, row 1 (counted from 0): 'A' is 'N', which is not a label value; known: y and blank; add it to --values"
    )
    assert refusal(tmp_path, labels=["A"], values={"Y": 3}).startswith(
        "options.values of table: 'Y' must mean 1, 0, -1 or null"
    )
    found = datasets.read("table", tmp_path, labels=["A"], values={"y": 1, "n": None})
    assert found["A"].fillna(9).tolist() == [1, 9]


def test_an_image_without_a_class_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "image,study,kind\na.png,s1,x\nb.png,s2,\nc.png,s3,y\n") / "images.csv"
    assert refusal(tmp_path, classes="kind") == (
        f"{path}, row 1 (counted from 0): 'kind' is blank; every image needs a class: fill it in, or leave such "
        "images out with --blank drop"
    )
    labels = write(tmp_path, "study,class\ns1,x\ns2,y\n", "labels.csv") / "labels.csv"
    assert refusal(tmp_path, classes="class", table="images.csv", label_table="labels.csv") == (
        f"{labels} has no row for the image in row 2 (counted from 0) of the table of images; every image needs a class: "
        "add the row, or leave such images out with --blank drop"
    )


def test_studies_without_labels_are_counted(tmp_path: Path) -> None:
    fake.write(tmp_path, apart=True)
    labels = tmp_path / "labels.csv"
    labels.write_text(labels.read_text().replace("s2", "s9"))
    options = fake.OPTIONS | {"table": "images.csv", "label_table": "labels.csv"}
    records = datasets.load("table", tmp_path, options)
    assert records.info.notes == (
        "1 of 4 images have no row in labels.csv: their labels are not mentioned",
        "1 of 3 rows of labels.csv have no image",
    )
    assert records.table["Edema"].isna().tolist() == [False, False, True, True]
    labels.write_text(labels.read_text().replace("s9", "s1"))
    assert (
        refusal(tmp_path, **options)
        == f"{labels} lists the study s1 twice, in rows 1 and 2 (counted from 0); delete one row, or join them "
        "with --join-rows max (a label is positive if one of the rows is)"
    )
    assert refusal(tmp_path, **options | {"on": "stdy"}).startswith(
        f"{tmp_path / 'images.csv'} has no column 'stdy'; did you mean 'study'?"
    )


def test_labels_and_table_must_be_unambiguous(tmp_path: Path) -> None:
    write(tmp_path, "image,A,B\na.png,1,x\n")
    assert refusal(tmp_path) == (
        "which columns contain the labels? Give --labels COLUMN (repeat it for each label), --findings COLUMN (a list) or "
        f"--classes COLUMN; the columns of {tmp_path / 'images.csv'}: image, A, B"
    )
    assert refusal(tmp_path, labels=["A"], classes="B") == (
        "--labels and --classes exclude each other; give one of them"
    )
    write(tmp_path, "image,A\na.png,1\n", "more.tsv")
    assert (
        refusal(tmp_path, labels=["A"])
        == f"{tmp_path} contains 2 tables (images.csv, more.tsv); choose one with --table FILE"
    )
    (tmp_path / "images.csv").unlink()
    (tmp_path / "more.tsv").unlink()
    assert refusal(tmp_path, labels=["A"]) == f"{tmp_path} contains no table; choose one with --table FILE"
    assert (
        refusal(tmp_path, labels=["A"], table="x.csv")
        == f"no file at {tmp_path / 'x.csv'}; it should be a table of images"
    )


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "image,Edma,kind\na.png,1,x\n") / "images.csv"
    assert (
        refusal(tmp_path, labels=["Edema"])
        == f"{path} has no column 'Edema'; did you mean 'Edma'? Its columns: image, Edma, kind"
    )
    assert (
        refusal(tmp_path, labels=["Edma"], image="Path")
        == f"{path} has no column 'Path'. Its columns: image, Edma, kind"
    )
    assert refusal(tmp_path, labels=["Edma"], patient="kin").startswith(
        f"{path} has no column 'kin'; did you mean 'kind'?"
    )


def test_labels_of_the_same_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "image,a.b,a/b\na.png,1,0\n") / "images.csv"
    assert refusal(tmp_path, labels=["a.b", "a/b"]) == (
        f"{path}: two labels have the same name after slashes and dots become _ (and line breaks a space): "
        "a.b, a/b; rename one of them"
    )


def test_a_broken_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    assert refusal(tmp_path, labels=["A"]).startswith(f"cannot read {tmp_path / 't.parquet'} as a table of images: ")


def test_integers_with_blanks_stay_integers(tmp_path: Path) -> None:
    pd.DataFrame({"image": ["a.png", "b.png"], "patient": [7, None], "A": [1.0, None]}).to_parquet(
        tmp_path / "t.parquet"
    )
    found = datasets.read("table", tmp_path, labels=["A"])
    assert found["patient"].fillna("-").tolist() == ["7", "-"] and found["A"].fillna(9).tolist() == [1, 9]


def test_options_of_the_command_line() -> None:
    words = (
        "table", "ROOT", "--labels", "Edema", "--labels", "Rib/Fracture", "--values.Y", "1", "--values.N", "0",
        "--values.Not seen", "null", "OUT", "--label-table", "labels.csv",
    )  # fmt: skip
    source, root, out, options = ingest.split_words(words, dry_run=False)
    assert (source, str(root), str(out)) == ("table", "ROOT", "OUT")
    expected = {
        "labels": ["Edema", "Rib/Fracture"],
        "values": {"Y": 1, "N": 0, "Not seen": None},
        "label_table": "labels.csv",
    }
    assert options == expected
    again = shlex.split(ingest.as_flags(options))  # as the dry run tells the next command
    assert ingest.split_words(("table", "ROOT", *again, "OUT"), dry_run=False)[3] == expected


def test_every_other_cell_has_one_meaning(tmp_path: Path) -> None:
    write(tmp_path, "image,A\na.png,-1\nb.png,557374 2 1015\nc.png,\nd.png,x\n")
    found = datasets.read("table", tmp_path, labels=["A"], values={-1: 0, "*": 1})
    assert found["A"].fillna(9).tolist() == [0, 1, 9, 1]
    words = ("table", "R", "--labels", "A", "--values", '{-1: 0, "*": 1}', "O")
    assert ingest.split_words(words, dry_run=False)[3]["values"] == {"-1": 0, "*": 1}
    assert datasets.read("table", tmp_path, labels=["A"], values={"*": None, "-1": 0})["A"].isna().tolist() == [
        False, True, True, True,
    ]  # fmt: skip


def test_images_without_a_class_can_be_dropped_and_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "image,age,kind\na.png,50,x\nb.png,51,\nc.png,52,y\nd.png,53, \n")
    records = datasets.load("table", tmp_path, {"classes": "kind", "blank": "drop", "positive": "x"})
    assert records.table["image"].tolist() == ["a.png", "c.png"] and records.table["x"].tolist() == [1, 0]
    assert records.table["source_row"].tolist() == [0, 2] and records.table["age"].tolist() == [50, 52]
    assert records.info.notes == (
        "2 of 4 images have no class and were dropped (--blank drop): row 1 (counted from 0) is the first",
    )
    assert refusal(tmp_path, labels=["age"], blank="drop") == (
        "--blank drop needs --classes; blank cells of --labels and --findings are labels not mentioned"
    )
    write(tmp_path, "image,kind\na.png,\nb.png,\n")
    assert refusal(tmp_path, classes="kind", blank="drop") == (
        "no image has a class in the column 'kind'; name another one with --classes"
    )


def test_rows_of_an_image_are_joined(tmp_path: Path) -> None:
    path = write(tmp_path, "image,age,tags\na.png,50,Mass\nb.png,,\na.png,50,Edema\nb.png,61,None\n") / "images.csv"
    assert refusal(tmp_path, findings="tags") == (
        f"{path}, row 2 (counted from 0): the image 'a.png' is also in row 0; repeated rows: 2; keep one row per image, or join "
        "them with --join-rows max (a label is positive if one of the rows is)"
    )
    records = datasets.load("table", tmp_path, {"findings": "tags", "join_rows": "max"})
    assert records.table["image"].tolist() == ["a.png", "b.png"] and records.table["source_row"].tolist() == [0, 1]
    assert records.table[["Edema", "Mass", "None"]].to_numpy().tolist() == [[1, 1, 0], [0, 0, 1]]
    assert records.table["age"].tolist() == [50, 61]
    assert records.info.notes == ("4 rows of images.csv are joined to 2 images (--join-rows max)",)
    write(tmp_path, "image,age,kind\na.png,50,x\nb.png,61,y\na.png,51,x\n")
    assert refusal(tmp_path, classes="kind", join_rows="max") == (
        f"{path}, row 2 (counted from 0): 'age' is '51.0', but '50.0' in row 0, which is joined to it; correct one of them"
    )
    write(tmp_path, "image,kind\na.png,x\nb.png,y\na.png,y\n")
    assert refusal(tmp_path, classes="kind", join_rows="max") == (
        f"{path}, row 2 (counted from 0): 'kind' is 'y', but 'x' in row 0, which is joined to it; correct one of them"
    )


def test_rows_of_a_study_are_joined_in_the_label_table(tmp_path: Path) -> None:
    write(tmp_path, "image,study\na.png,s1\nb.png,s2\nc.png,s3\n")
    write(tmp_path, "study,A\ns2,0\ns1,0\ns2,-1\ns1,1\ns9,1\n", "labels.csv")
    options = {"table": "images.csv", "label_table": "labels.csv", "labels": ["A"]}
    records = datasets.load("table", tmp_path, options | {"join_rows": "max"})
    assert records.table["A"].fillna(9).tolist() == [1, -1, 9]
    assert records.info.notes == (
        "1 of 3 images have no row in labels.csv: their labels are not mentioned",
        "1 of 3 rows of labels.csv have no image",
    )


def test_images_without_a_study_have_no_labels(tmp_path: Path) -> None:
    write(tmp_path, "image,study\na.png,\nb.png,s2\n")
    write(tmp_path, "study,A\n,1\ns2,0\n", "labels.csv")
    found = datasets.read("table", tmp_path, table="images.csv", label_table="labels.csv", labels=["A"])
    assert found["A"].fillna(9).tolist() == [9, 0]


RSNA = (
    "patientId,x,y,width,height,Target\n"
    "0004cfab,,,,,0\n00436515,264.0,152.0,213.0,379.0,1\n00436515,562.0,152.0,256.0,453.0,1\n003d8fa0,,,,,0\n"
)
CLASS_INFO = "patientId,class\n0004cfab,No Lung Opacity / Not Normal\n00436515,Lung Opacity\n00436515,Lung Opacity\n003d8fa0,Normal\n"
RSNA_OPTIONS = {"image": "patientId", "folder": "stage_2_train_images", "extension": ".dcm", "join_rows": "max"}


def test_the_tables_of_rsnas_challenge(tmp_path: Path) -> None:
    write(tmp_path, RSNA, "stage_2_train_labels.csv")
    write(tmp_path, CLASS_INFO, "stage_2_detailed_class_info.csv")
    options = RSNA_OPTIONS | {"table": "stage_2_train_labels.csv"}
    records = datasets.load("table", tmp_path, options | {"labels": ["Target"]})
    assert records.table["image"].tolist() == [
        f"stage_2_train_images/{k}.dcm" for k in ("0004cfab", "00436515", "003d8fa0")
    ]
    assert records.table["Target"].tolist() == [0, 1, 0] and records.table["patient"].isna().all()
    assert records.info.notes[-1].startswith("the column patientId names images (RSNA's challenge)")
    records = datasets.load(
        "table",
        tmp_path,
        options | {"classes": "class", "label_table": "stage_2_detailed_class_info.csv", "on": "patientId"},
    )
    assert records.info.task == "multiclass" and records.info.labels == (
        "Lung Opacity", "No Lung Opacity _ Not Normal", "Normal",
    )  # fmt: skip
    assert records.table["Lung Opacity"].tolist() == [0, 1, 0]


SIIM = "ImageId, EncodedPixels\n1.2.3,-1\n1.2.4,557374 2 1015 8\n1.2.4,100 2\n1.2.5, -1\n"
SIIM_OPTIONS = {
    "image": "ImageId", "extension": ".dcm", "labels": ["EncodedPixels"], "values": {"-1": 0, "*": 1}, "join_rows": "max",
}  # fmt: skip


def test_the_table_of_siims_challenge(tmp_path: Path) -> None:
    write(tmp_path, SIIM, "train-rle.csv")
    found = datasets.read("table", tmp_path, **SIIM_OPTIONS)
    assert found["image"].tolist() == ["1.2.3.dcm", "1.2.4.dcm", "1.2.5.dcm"]
    assert found["EncodedPixels"].tolist() == [0, 1, 0]


def test_files_are_found_by_name_in_the_folders_of_siims_archive(tmp_path: Path) -> None:
    write(tmp_path, SIIM, "train-rle.csv")
    for path in ("st/se/1.2.3.dcm", "st/se2/1.2.4.dcm"):
        file = tmp_path / "dicom-images-train" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    options = SIIM_OPTIONS | {"folder": "dicom-images-train", "search": True}
    assert datasets.read("table", tmp_path, **options)["image"].tolist() == [
        "dicom-images-train/st/se/1.2.3.dcm", "dicom-images-train/st/se2/1.2.4.dcm", "dicom-images-train/1.2.5.dcm",
    ]  # fmt: skip
    (tmp_path / "dicom-images-train" / "1.2.4.dcm").write_bytes(b"")
    assert refusal(tmp_path, **options) == (
        "two files are called alike: 'dicom-images-train/1.2.4.dcm' and 'dicom-images-train/st/se2/1.2.4.dcm'; give paths in "
        "the column, not --search"
    )
    assert (
        refusal(tmp_path, **options | {"folder": "x"}) == f"no folder at {tmp_path / 'x'} to search; correct --folder"
    )


def test_patients_that_cannot_be_patients_are_noted(tmp_path: Path) -> None:
    rows = "".join(f"{at}.png,p{at},{at % 2}\n" for at in range(120))
    write(tmp_path, "image,patientId,A\n" + rows)
    notes = datasets.load("table", tmp_path, {"labels": ["A"], "patient": "patientId"}).info.notes
    assert len(notes) == 1 and notes[0].startswith(
        "each of the 120 images has its own patient in the column 'patientId'"
    )
    write(tmp_path, "image,patientId,A\n" + rows + "x.png,p0,1\n")
    assert datasets.load("table", tmp_path, {"labels": ["A"], "patient": "patientId"}).info.notes == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, encoding: str, delimiter: str) -> None:
    text = "image,patient,Höhe,Erguß\r\na.png,007,50,1\r\nb.png,8,51,0\r\n".replace(",", delimiter)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    options: dict[str, Any] = {"labels": ["Erguß"]}
    if encoding == "cp1252":
        assert refusal(tmp_path, **options).startswith(
            f"cannot read {tmp_path / 't.csv'} as a table of images: the header is not UTF-8 text; give --encoding cp1252 if it "
            "contains 'Höhe', else the name of its encoding"
        )
        options["encoding"] = "windows-1252"
    found = datasets.read("table", tmp_path, **options)
    assert found["Erguß"].tolist() == [1, 0] and found["patient"].tolist() == ["007", "8"]


def test_form_options_are_checked(tmp_path: Path) -> None:
    write(tmp_path, "image;A\na.png;1\n")
    assert datasets.read("table", tmp_path, labels=["A"], delimiter="semicolon")["A"].tolist() == [1]
    assert refusal(tmp_path, labels=["A"], delimiter="tab").startswith(
        f"{tmp_path / 'images.csv'} has no column 'image'"
    )
    assert refusal(tmp_path, labels=["A"], delimiter=";;").startswith(
        "options.delimiter of table: must be one character"
    )
    for unknown in ("ansi-x", "base64", "rot13"):
        assert refusal(tmp_path, labels=["A"], encoding=unknown).startswith(
            "options.encoding of table: unknown encoding"
        )


def test_messages_never_print_long_cells_or_control_characters(tmp_path: Path) -> None:
    report = "\x1b[31m" + "the lungs are clear " * 30
    write(tmp_path, "image,report,A\n" + "".join(f"{at}.png,{report}{at},{report}\n" for at in range(1200)))
    for options in ({"classes": "report"}, {"findings": "report"}, {"labels": ["A"]}, {"labels": [report]}):
        message = refusal(tmp_path, **options)
        assert "\x1b" not in message and len(message) < 700, message
        assert report[:90] not in message
