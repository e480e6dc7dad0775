"""Damaged and unusual tables: the exact error message of every source that reads one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.datasets.preview import dry_run
from cxr_ray.errors import UserError
from cxr_ray.imaging import files, pixels
from tests.fakes import mimic_cxr
from tests.fakes.layouts import LAYOUTS, OPTIONS

FIX = "correct the cell, or download the file again"


@dataclass(frozen=True)
class Table:
    """How a source's table names the image of a row."""

    file: str
    column: str
    cell: str
    """A cell of that column, with `{}` for the part that a bad row replaces."""
    path: str
    """The path that results from the cell."""
    twice: str
    """Error message if the first row is repeated at the end; {last} is the row of the copy."""
    folder: str
    """The folder of the images."""
    searches: bool = False
    """Whether the source searches the files by name, and so reads links out of the root."""


def repeated(name: str, image: str) -> str:
    return (
        f"{name}: {image} is in row 0 and again in row {{last}} (counted from 0) of the table in {{root}}; repeated rows: 1; "
        "keep one row per image"
    )


TABLES = {
    "chexpert": Table(
        "train.csv", "Path", "CheXpert-v1.0-small/{}/patient00001/study1/view1_frontal.jpg",
        "{}/patient00001/study1/view1_frontal.jpg",
        repeated("chexpert", "train/patient00001/study1/view1_frontal.jpg"), "train",
    ),
    "nih": Table(
        "Data_Entry_2017_v2020.csv", "Image Index", "{}/00000001_000.png", "images/{}/00000001_000.png",
        repeated("nih", "images/00000001_000.png"), "images", True,
    ),
    "covid_chestxray": Table(
        "metadata.csv", "filename", "{}/a.png", "images/{}/a.png",
        repeated("covid_chestxray", "images/a-day0.jpeg"), "images",
    ),
    "mimic_cxr": Table(
        "mimic-cxr-2.0.0-metadata.csv", "dicom_id", "{}/02aa", "files/p10/p10000032/s50414267/{}/02aa.jpg",
        repeated("mimic_cxr", f"files/p10/p10000032/s50414267/{mimic_cxr.IMAGES[0][0]}.jpg"), "files",
    ),
    "vindr": Table(
        "annotations/image_labels_train.csv", "image_id", "{}/000434", "train/{}/000434.dicom",
        "{root}/annotations/image_labels_train.csv lists 000434271f63a053c4128a0ba6352c7f of reader R6 twice, in rows 0 and {last} "
        "(counted from 0); delete one row",
        "train", True,
    ),
    "padchest": Table(
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "ImageID", "{}/a.png", "0/{}/a.png",
        repeated("padchest", "0/20536686640136348236148679891455886468_k6ga29.png"), "0", True,
    ),
    "table": Table(
        "images.csv", "image", "{}/a.png", "pictures/{}/a.png",
        "{root}/images.csv, row {last} (counted from 0): the image 'a.png' is also in row 0; repeated rows: 1; keep one row per "
        "image, or join them with --join-rows max (a label is positive if one of the rows is)",
        "pictures",
    ),
}  # fmt: skip


@pytest.fixture(params=list(TABLES))
def bad(request: pytest.FixtureRequest, tmp_path: Path) -> "Bad":
    name = request.param
    root = tmp_path / "data"
    if name == "mimic_cxr":
        mimic_cxr.write(root, gzip=False)
    else:
        LAYOUTS[name](root)
    return Bad(name, root, TABLES[name])


@dataclass
class Bad:
    """A fake dataset, and changes to its table."""

    name: str
    root: Path
    table: Table

    @property
    def file(self) -> Path:
        return self.root / self.table.file

    def load(self) -> datasets.Records:
        return datasets.load(self.name, self.root, OPTIONS.get(self.name))

    def refusal(self) -> str:
        with pytest.raises(UserError) as caught:
            self.load()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def rewrite(self, change: Any) -> None:
        """Read the table with every cell as text, change it, and write it."""
        table = pd.read_csv(self.file, dtype=str, keep_default_na=False)
        change(table).to_csv(self.file, index=False)

    def rename_first_image(self, cell: str) -> None:
        """Replace the name of the first image in all its rows."""

        def change(table: pd.DataFrame) -> pd.DataFrame:
            return table.assign(
                **{self.table.column: table[self.table.column].replace(table[self.table.column][0], cell)}
            )

        self.rewrite(change)


def test_every_source_with_a_table_is_tested() -> None:
    no_table = {"image_folder", "covid_radiography", "phantom", "dicom_folder"}
    assert set(LAYOUTS) - no_table == set(TABLES)


@pytest.mark.parametrize("kind", ["BOM", "CRLF", "BOM and CRLF"])
def test_byte_order_mark_and_windows_line_endings_change_nothing(bad: Bad, kind: str) -> None:
    plain = bad.load().table
    body = bad.file.read_bytes()
    if "CRLF" in kind:
        body = body.replace(b"\n", b"\r\n")
    bad.file.write_bytes((b"\xef\xbb\xbf" if "BOM" in kind else b"") + body)
    pd.testing.assert_frame_equal(bad.load().table, plain)


def test_a_repeated_row_is_refused(bad: Bad) -> None:
    last = len(pd.read_csv(bad.file))
    bad.rewrite(lambda table: pd.concat([table, table.iloc[:1]]))
    assert bad.refusal() == bad.table.twice.format(root=bad.root, last=last)


def test_a_misspelt_and_a_missing_column_are_named(bad: Bad) -> None:
    column = bad.table.column
    bad.rewrite(lambda table: table.rename(columns={column: column + "s"}))
    shown = column.lower() if bad.name == "covid_chestxray" else column
    assert bad.refusal().startswith(f"{bad.file} has no column {shown!r}; did you mean {shown + 's'!r}? Its columns: ")
    bad.rewrite(lambda table: table.drop(columns=column + "s"))
    assert bad.refusal().startswith(f"{bad.file} has no column {shown!r}")


def outside(bad: Bad, path: str) -> str:
    return (
        f"{bad.name}: the path {path!r} in row 0 (counted from 0) of the table in {bad.root} leads out of that folder; "
        "give paths below it"
    )


@pytest.mark.parametrize("parent", ["..", "../.."])
def test_a_path_to_a_parent_folder_is_refused(bad: Bad, parent: str) -> None:
    bad.rename_first_image(bad.table.cell.format(parent))
    assert bad.refusal() == outside(bad, bad.table.path.format(parent))


def test_an_absolute_path_is_refused(bad: Bad) -> None:
    inner = "patient00001/study1/view1_frontal" if bad.name == "chexpert" else "a"
    cell, path = {
        "vindr": (f"/etc/{inner}", f"/etc/{inner}.dicom"),
        "mimic_cxr": (f"/etc/{inner}", f"/etc/{inner}.jpg"),
    }.get(bad.name, (f"/etc/{inner}.png", f"/etc/{inner}.png"))
    bad.rename_first_image(cell)
    assert bad.refusal() == outside(bad, path)


def test_a_row_without_an_image_is_refused(bad: Bad) -> None:
    bad.rename_first_image("")
    if bad.name == "chexpert":
        assert bad.refusal() == (
            f"{bad.file}, row 0 (counted from 0): 'Path' is '', not like .../patient00001/study1/view1_frontal.jpg; "
            "correct the cell, or download the file again"
        )
    else:
        assert bad.refusal() == (
            f"{bad.name}: no image name in row 0 (counted from 0) of the table in {bad.root}; rows without one: 1; "
            "fill in the names, or delete the rows"
        )


def test_a_folder_that_is_a_link_out_of_the_root_is_refused(bad: Bad) -> None:
    folder, target = bad.root / bad.table.folder, bad.root.parent / "target"
    folder.rename(target)
    folder.symlink_to(target)
    if bad.table.searches:
        assert bad.refusal() == f"{folder} is a link out of {bad.root}; replace it with a copy of its target"
    else:
        assert bad.refusal() == (
            f"{bad.name}: {bad.table.folder} is a link out of {bad.root}; "
            "replace it with a copy of its target, or give the folder that holds the target"
        )


def test_a_file_that_is_a_link_out_of_the_root_is_never_read(bad: Bad) -> None:
    image = bad.load().table["image"].iloc[0]
    target = bad.root.parent / "secret.png"
    (bad.root / image).rename(target)
    (bad.root / image).symlink_to(target)
    if bad.table.searches:
        assert bad.refusal() == f"{bad.root / image} is a link out of {bad.root}; replace it with a copy of its target"
    else:  # the records are read from the table only; the ingest rejects and counts the image
        assert bad.load().table["image"].iloc[0] == image
        with pytest.raises(pixels.ImageError, match="outside the root"):
            files.read(bad.root, image)


def test_a_missing_file_keeps_its_row_and_is_counted(bad: Bad) -> None:
    before = bad.load().table
    image = before["image"].iloc[-1]
    (bad.root / image).unlink()
    records = bad.load()
    missing = Path(image).with_suffix(".dicom").as_posix() if bad.name == "vindr" else image
    assert records.table["image"].tolist() == [*before["image"][:-1], missing]
    counts = dry_run(records, bad.root, size=(8, 8))
    assert (counts.listed, counts.missing, counts.first_missing) == (len(before), 1, missing)
    with pytest.raises(pixels.ImageError, match="file missing"):
        files.read(bad.root, missing)


LABEL_COLUMNS = {  # a column of labels
    "chexpert": "No Finding",
    "nih": "Finding Labels",
    "covid_chestxray": "finding",
    "mimic_cxr": "Edema",
    "vindr": "Edema",
    "padchest": "Labels",
    "table": "Edema",
}


@pytest.mark.parametrize("word", ["None", "NA"])
def test_none_and_na_are_names_among_names_and_blank_among_label_values(bad: Bad, word: str) -> None:
    column = LABEL_COLUMNS[bad.name]
    file = bad.root / "mimic-cxr-2.0.0-chexpert.csv" if bad.name == "mimic_cxr" else bad.file
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    same = table[bad.table.column] == table[bad.table.column][0] if bad.name == "vindr" else table.index == 0
    table.loc[same, column] = word
    table.to_csv(file, index=False)
    if bad.name == "nih":
        assert bad.refusal().startswith(f"{file}, row 0 (counted from 0): unknown finding {word!r} in 'Finding Labels'")
    elif bad.name == "padchest":
        assert bad.refusal() == (
            f"{file}, row 0 (counted from 0): 'Labels' is {word!r}, not a list such as ['normal']; {FIX}"
        )
    elif bad.name == "covid_chestxray":
        found = bad.load().table
        assert found[word].fillna(9).tolist() == [1, 0, 0, 0, 9, 0]
    else:
        assert np.isnan(bad.load().table[column].iloc[0])


def test_an_unknown_label_value_is_refused_with_its_row(bad: Bad) -> None:
    file = bad.root / "mimic-cxr-2.0.0-chexpert.csv" if bad.name == "mimic_cxr" else bad.file
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    column = LABEL_COLUMNS[bad.name]
    table.loc[0, column] = "maybe"
    table.to_csv(file, index=False)
    row = f"{file}, row 0 (counted from 0)"
    known = {
        "mimic_cxr": f"known: 1, 0, -1, true, false and blank; {FIX}",
        "vindr": f"known: 1, 0 and blank; {FIX}",
        "table": "known: y, n, u and blank; add it to --values",
    }
    if bad.name == "covid_chestxray":  # it accepts any finding
        assert bad.load().table["maybe"].iloc[0] == 1
    elif bad.name == "chexpert":
        assert bad.refusal() == f"{row}: {column!r} is 'maybe', not a number; {FIX}"
    elif bad.name == "nih":
        assert bad.refusal().startswith(
            f"{row}: unknown finding 'maybe' in {column!r}; known: Atelectasis, Cardiomegaly, "
        )
    elif bad.name == "padchest":
        assert bad.refusal() == f"{row}: 'Labels' is 'maybe', not a list such as ['normal']; {FIX}"
    else:
        assert bad.refusal() == f"{row}: {column!r} is 'maybe', which is not a label value; {known[bad.name]}"
