"""Any table: one-hot, joined and class labels, value maps, labels by study, and every mistake in one line."""

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
    with pytest.raises(UserError) as said:
        datasets.load("table", root, options)
    assert "\n" not in str(said.value)
    return str(said.value)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("apart", [False, True])
def test_one_hot_labels_with_a_value_map(tmp_path: Path, kind: str, apart: bool) -> None:
    fake.write(tmp_path, kind=kind, apart=apart)
    options = fake.OPTIONS | ({"table": f"images.{kind}", "label_table": "labels.csv"} if apart else {})
    records = datasets.load("table", tmp_path, options)
    found = records.table
    assert records.task == "multilabel" and records.labels == ("Edema", "Rib_Fracture")
    for row, (image, patient, study, *_) in zip(found.to_dict("records"), fake.IMAGES, strict=True):
        assert row["image"] == f"pictures/{image}" and (tmp_path / row["image"]).is_file()
        assert (row["patient"], row["study"]) == (patient, study)  # 007 and NA are names
        meant = [{"Y": 1.0, "N": 0.0, "U": -1.0, "": np.nan}[cell] for cell in fake.LABELS[study]]
        np.testing.assert_array_equal([row["Edema"], row["Rib_Fracture"]], meant)
    assert found["split"].tolist() == ["train", "train", "val", "test"]
    assert found["age"].fillna(-1).tolist() == [50, 50, -1, 61] and records.features == ("view",)


def test_columns_of_other_names(tmp_path: Path) -> None:
    text = "file,case,visit,PA,Part\nx,p1,v1,1,Dev\ny,p2,v2,0,\n"
    records = datasets.load(
        "table", write(tmp_path, text), {"image": "file", "extension": ".png", "patient": "case", "study": "visit", "split": "Part", "labels": ["PA"]}
    )  # fmt: skip
    assert records.table["image"].tolist() == ["x.png", "y.png"]
    assert records.table["patient"].tolist() == ["p1", "p2"] and records.table["split"].fillna("-").tolist() == [
        "val",
        "-",
    ]


def test_joined_findings(tmp_path: Path) -> None:
    write(tmp_path, "image,tags\na.png,Edema|Mass\nb.png,No Finding\nc.png,\nd.png, Mass | None \n")
    records = datasets.load("table", tmp_path, {"findings": "tags"})
    assert records.labels == ("Edema", "Mass", "No Finding", "None") and records.default_labels == (
        "Edema",
        "Mass",
        "None",
    )
    assert records.table["Mass"].fillna(-9).tolist() == [1, 0, -9, 1]
    write(tmp_path, "image,tags\na.png,Edema; Mass\n")
    assert datasets.load("table", tmp_path, {"findings": "tags", "separator": ";"}).labels == ("Edema", "Mass")


def test_a_class_may_be_called_none_or_na(tmp_path: Path) -> None:
    write(tmp_path, "image,kind\na.png,None\nb.png,NA\nc.png,Covid\n")
    records = datasets.load("table", tmp_path, {"classes": "kind"})
    assert records.task == "multiclass" and records.labels == ("Covid", "NA", "None")
    assert records.table[["Covid", "NA", "None"]].to_numpy().tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    write(tmp_path, "image,kind\na.png,None\nb.png,Covid\n")
    assert refusal(tmp_path, classes="kind").startswith("which class is the finding?")
    records = datasets.load("table", tmp_path, {"classes": "kind", "positive": "Covid"})
    assert records.task == "binary" and records.table["Covid"].tolist() == [0, 1]


@pytest.mark.parametrize("cell", ["1", "1.0", " 1 ", "True", "TRUE"])
def test_marks_that_need_no_map(tmp_path: Path, cell: str) -> None:
    write(tmp_path, f"image,A\na.png,{cell}\nb.png,0\nc.png,-1.0\nd.png,\ne.png,NA\nf.png,None\n")
    assert datasets.read("table", tmp_path, labels=["A"])["A"].fillna(9).tolist() == [1, 0, -1, 9, 9, 9]


def test_a_value_without_a_meaning_says_how_to_give_it_one(tmp_path: Path) -> None:
    path = write(tmp_path, "image,A\na.png,Y\nb.png,N\n") / "images.csv"
    assert refusal(tmp_path, labels=["A"]) == (
        f"{path}: 'A' is 'Y' at row 0, which is no label value; known: 1, 0, -1, true, false and blank; "
        "say what it means with --values.'Y' 1 (or 0, -1, null)"
    )
    assert refusal(tmp_path, labels=["A"], values={"Y": 1}) == (
        f"{path}: 'A' is 'N' at row 1, which is no label value; known: y and blank; add it to --values"
    )
    assert refusal(tmp_path, labels=["A"], values={"Y": 3}).startswith(
        "options.values of table: 'Y' means 1, 0, -1 or null"
    )
    found = datasets.read("table", tmp_path, labels=["A"], values={"y": 1, "n": None})
    assert found["A"].fillna(9).tolist() == [1, 9]


def test_studies_without_labels_are_counted(tmp_path: Path) -> None:
    fake.write(tmp_path, apart=True)
    labels = tmp_path / "labels.csv"
    labels.write_text(labels.read_text().replace("s2", "s9"))
    options = fake.OPTIONS | {"table": "images.csv", "label_table": "labels.csv"}
    records = datasets.load("table", tmp_path, options)
    assert records.notes == ("1 of 4 images have no row in labels.csv: their labels are not mentioned",)
    assert records.table["Edema"].isna().tolist() == [False, False, True, True]
    labels.write_text(labels.read_text().replace("s9", "s1"))
    assert refusal(tmp_path, **options) == f"{labels} lists the study s1 twice; keep one row of it"
    assert refusal(tmp_path, **options | {"on": "stdy"}).startswith(
        f"{tmp_path / 'images.csv'} has no column 'stdy'; did you mean 'study'?"
    )


def test_which_labels_and_which_table(tmp_path: Path) -> None:
    write(tmp_path, "image,A,B\na.png,1,x\n")
    assert refusal(tmp_path) == (
        "which columns hold the labels? --labels COLUMN (one a label, given again for the next), --findings COLUMN (a list) or "
        f"--classes COLUMN; the columns of {tmp_path / 'images.csv'}: image, A, B"
    )
    assert refusal(tmp_path, labels=["A"], classes="B") == (
        "--labels and --classes: the labels stand in one of them; leave the others out"
    )
    write(tmp_path, "image,A\na.png,1\n", "more.tsv")
    assert (
        refusal(tmp_path, labels=["A"])
        == f"{tmp_path} holds 2 tables (images.csv, more.tsv); say which with --table FILE"
    )
    (tmp_path / "images.csv").unlink()
    (tmp_path / "more.tsv").unlink()
    assert refusal(tmp_path, labels=["A"]) == f"{tmp_path} holds no table; say which with --table FILE"
    assert (
        refusal(tmp_path, labels=["A"], table="x.csv")
        == f"no file at {tmp_path / 'x.csv'}; it should be a table of images"
    )


def test_columns_that_are_not_there(tmp_path: Path) -> None:
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


def test_labels_that_meet_in_one_name(tmp_path: Path) -> None:
    path = write(tmp_path, "image,a.b,a/b\na.png,1,0\n") / "images.csv"
    assert refusal(tmp_path, labels=["a.b", "a/b"]) == (
        f"{path}: two labels share one name once slashes and dots become _: a.b, a/b; rename one"
    )


def test_a_broken_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    assert refusal(tmp_path, labels=["A"]).startswith(f"cannot read {tmp_path / 't.parquet'} as a table of images: ")


def test_whole_numbers_beside_blanks_stay_whole(tmp_path: Path) -> None:
    pd.DataFrame({"image": ["a.png", "b.png"], "patient": [7, None], "A": [1.0, None]}).to_parquet(
        tmp_path / "t.parquet"
    )
    found = datasets.read("table", tmp_path, labels=["A"])
    assert found["patient"].fillna("-").tolist() == ["7", "-"] and found["A"].fillna(9).tolist() == [1, 9]


def test_as_the_command_line_gives_them() -> None:
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
    again = shlex.split(ingest.spelled(options))  # as the dry run tells the next command
    assert ingest.split_words(("table", "ROOT", *again, "OUT"), dry_run=False)[3] == expected
