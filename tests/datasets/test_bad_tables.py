"""Tables as they come from other programs and other hands: the exact answer of every source that reads one."""

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


@dataclass(frozen=True)
class Table:
    """Where a source's table says which image a row is of."""

    file: str
    column: str
    cell: str
    """How the table names an image, with `{}` for what a bad row puts in the place of its name."""
    path: str
    """The path that such a cell becomes."""
    twice: str
    """What is said when the first row stands there once more."""
    homes: str
    """The folder that holds the images."""
    lists: bool = False
    """Whether the source looks for the files by name, and so meets links that leave the root."""


TABLES = {
    "chexpert": Table(
        "train.csv", "Path", "CheXpert-v1.0-small/{}/patient00001/study1/view1_frontal.jpg",
        "{}/patient00001/study1/view1_frontal.jpg",
        "chexpert: train/patient00001/study1/view1_frontal.jpg is listed twice (1 rows in all); drop the doubled rows", "train",
    ),
    "nih": Table(
        "Data_Entry_2017_v2020.csv", "Image Index", "{}/00000001_000.png", "images/{}/00000001_000.png",
        "nih: images/00000001_000.png is listed twice (1 rows in all); drop the doubled rows", "images", True,
    ),
    "covid_chestxray": Table(
        "metadata.csv", "filename", "{}/a.png", "images/{}/a.png",
        "covid_chestxray: images/a-day0.jpeg is listed twice (1 rows in all); drop the doubled rows", "images",
    ),
    "mimic_cxr": Table(
        "mimic-cxr-2.0.0-metadata.csv", "dicom_id", "{}/02aa", "files/p10/p10000032/s50414267/{}/02aa.jpg",
        f"mimic_cxr: files/p10/p10000032/s50414267/{mimic_cxr.IMAGES[0][0]}.jpg is listed twice (1 rows in all); "
        "drop the doubled rows", "files",
    ),
    "vindr": Table(
        "annotations/image_labels_train.csv", "image_id", "{}/000434", "train/{}/000434.dicom",
        "{root}/annotations/image_labels_train.csv lists 000434271f63a053c4128a0ba6352c7f of reader R6 twice; keep one row of it",
        "train", True,
    ),
    "padchest": Table(
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "ImageID", "{}/a.png", "0/{}/a.png",
        "padchest: 0/20536686640136348236148679891455886468_k6ga29.png is listed twice (1 rows in all); drop the doubled rows",
        "0", True,
    ),
    "table": Table(
        "images.csv", "image", "{}/a.png", "pictures/{}/a.png",
        "table: pictures/a.png is listed twice (1 rows in all); drop the doubled rows", "pictures",
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
    """A fake dataset whose table is about to be spoilt."""

    name: str
    root: Path
    table: Table

    @property
    def file(self) -> Path:
        return self.root / self.table.file

    def load(self) -> datasets.Records:
        return datasets.load(self.name, self.root, OPTIONS.get(self.name))

    def refusal(self) -> str:
        with pytest.raises(UserError) as said:
            self.load()
        assert "\n" not in str(said.value)
        return str(said.value)

    def rewrite(self, change: Any) -> None:
        """The table with every cell as text, changed and written back."""
        table = pd.read_csv(self.file, dtype=str, keep_default_na=False)
        change(table).to_csv(self.file, index=False)

    def first_image(self, cell: str) -> None:
        """Name the first image otherwise, wherever the table names it."""

        def change(table: pd.DataFrame) -> pd.DataFrame:
            return table.assign(
                **{self.table.column: table[self.table.column].replace(table[self.table.column][0], cell)}
            )

        self.rewrite(change)


def test_every_source_with_a_table_is_here() -> None:
    no_table = {"image_folder", "covid_radiography", "phantom", "dicom_folder"}
    assert set(LAYOUTS) - no_table == set(TABLES)


@pytest.mark.parametrize("kind", ["BOM", "CRLF", "BOM and CRLF"])
def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing(bad: Bad, kind: str) -> None:
    plain = bad.load().table
    body = bad.file.read_bytes()
    if "CRLF" in kind:
        body = body.replace(b"\n", b"\r\n")
    bad.file.write_bytes((b"\xef\xbb\xbf" if "BOM" in kind else b"") + body)
    pd.testing.assert_frame_equal(bad.load().table, plain)


def test_a_doubled_row_is_refused(bad: Bad) -> None:
    bad.rewrite(lambda table: pd.concat([table, table.iloc[:1]]))
    assert bad.refusal() == bad.table.twice.replace("{root}", str(bad.root))


def test_a_misspelt_and_a_missing_column_are_named(bad: Bad) -> None:
    column = bad.table.column
    bad.rewrite(lambda table: table.rename(columns={column: column + "s"}))
    said = bad.refusal()
    shown = column.lower() if bad.name == "covid_chestxray" else column
    assert said.startswith(f"{bad.file} has no column {shown!r}; did you mean {shown + 's'!r}? Its columns: "), said
    bad.rewrite(lambda table: table.drop(columns=column + "s"))
    assert bad.refusal().startswith(f"{bad.file} has no column {shown!r}")


@pytest.mark.parametrize("way", ["..", "../.."])
def test_a_path_that_climbs_out_is_refused(bad: Bad, way: str) -> None:
    bad.first_image(bad.table.cell.format(way))
    path = bad.table.path.format(way)
    assert bad.refusal() == f"{bad.name}: {path!r} leaves {bad.root}; paths in the table must stay below it"


def test_an_absolute_path_is_refused(bad: Bad) -> None:
    inner = "patient00001/study1/view1_frontal" if bad.name == "chexpert" else "a"
    cell, path = {
        "vindr": (f"/etc/{inner}", f"/etc/{inner}.dicom"),
        "mimic_cxr": (f"/etc/{inner}", f"/etc/{inner}.jpg"),
    }.get(bad.name, (f"/etc/{inner}.png", f"/etc/{inner}.png"))
    bad.first_image(cell)
    assert bad.refusal() == f"{bad.name}: {path!r} leaves {bad.root}; paths in the table must stay below it"


def test_a_row_that_names_no_image_is_refused(bad: Bad) -> None:
    bad.first_image("")
    said = bad.refusal()
    if bad.name == "chexpert":
        assert said == f"{bad.file}: row 0 has the path nan, not .../patient00001/study1/view1_frontal.jpg"
    else:
        assert said == f"{bad.name}: 1 rows name no image, the first is row 0; mend the table"


def test_a_folder_that_is_a_link_out_of_the_root_is_refused(bad: Bad) -> None:
    home, away = bad.root / bad.table.homes, bad.root.parent / "away"
    home.rename(away)
    home.symlink_to(away)
    said = bad.refusal()
    if bad.table.lists:
        assert said == f"{home} is a link out of {bad.root}; copy its target there"
    else:
        assert (
            said
            == f"{bad.name}: {bad.table.homes} is a link out of {bad.root}; copy its target there or give that folder"
        )


def test_a_file_that_is_a_link_out_of_the_root_is_never_read(bad: Bad) -> None:
    image = bad.load().table["image"].iloc[0]
    away = bad.root.parent / "secret.png"
    (bad.root / image).rename(away)
    (bad.root / image).symlink_to(away)
    if bad.table.lists:
        assert bad.refusal() == f"{bad.root / image} is a link out of {bad.root}; copy its target there"
    else:  # the records are of the table alone; the ingest refuses the image, and counts it
        assert bad.load().table["image"].iloc[0] == image
        with pytest.raises(pixels.ImageError, match="outside the root"):
            files.read(bad.root, image)


def test_a_file_that_is_listed_but_absent_keeps_its_row_and_is_counted(bad: Bad) -> None:
    before = bad.load().table
    image = before["image"].iloc[-1]
    (bad.root / image).unlink()
    records = bad.load()
    missing = Path(image).with_suffix(".dicom").as_posix() if bad.name == "vindr" else image
    assert records.table["image"].tolist() == [*before["image"][:-1], missing]
    told = dry_run(records, bad.root, size=(8, 8))
    assert (told.listed, told.missing, told.first_missing) == (len(before), 1, missing)
    with pytest.raises(pixels.ImageError, match="file missing"):
        files.read(bad.root, missing)


LABEL_CELLS = {  # of the first row: the column, and what its cell says now
    "chexpert": "No Finding",
    "nih": "Finding Labels",
    "covid_chestxray": "finding",
    "mimic_cxr": "Edema",
    "vindr": "Edema",
    "padchest": "Labels",
    "table": "Edema",
}


@pytest.mark.parametrize("word", ["None", "NA"])
def test_none_and_na_are_names_where_names_stand_and_blanks_where_marks_do(bad: Bad, word: str) -> None:
    column = LABEL_CELLS[bad.name]
    file = bad.root / "mimic-cxr-2.0.0-chexpert.csv" if bad.name == "mimic_cxr" else bad.file
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    same = table[bad.table.column] == table[bad.table.column][0] if bad.name == "vindr" else table.index == 0
    table.loc[same, column] = word
    table.to_csv(file, index=False)
    if bad.name == "nih":
        assert bad.refusal().startswith(f"{file}: unknown finding {word!r} at row 0")
    elif bad.name == "padchest":
        assert (
            bad.refusal()
            == f"{file}: 'Labels' is {word!r} at row 0, no list such as ['normal']; is the download whole?"
        )
    elif bad.name == "covid_chestxray":
        found = bad.load().table
        assert found[word].fillna(9).tolist() == [1, 0, 0, 0, 9, 0]
    else:
        assert np.isnan(bad.load().table[column].iloc[0])


def test_a_label_value_that_is_none_is_refused_with_its_row(bad: Bad) -> None:
    file = bad.root / "mimic-cxr-2.0.0-chexpert.csv" if bad.name == "mimic_cxr" else bad.file
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    table.loc[0, LABEL_CELLS[bad.name]] = "maybe"
    table.to_csv(file, index=False)
    column = LABEL_CELLS[bad.name]
    meant = {
        "mimic_cxr": "known: 1, 0, -1, true, false and blank; is the download whole?",
        "vindr": "known: 1, 0 and blank; is the download whole?",
        "table": "known: y, n, u and blank; add it to --values",
    }
    if bad.name == "covid_chestxray":  # its findings are whatever the table says
        assert bad.load().table["maybe"].iloc[0] == 1
    elif bad.name == "chexpert":
        assert bad.refusal() == f"{file}: {column!r} is 'maybe' at row 0, not a number; is the download whole?"
    elif bad.name == "nih":
        assert bad.refusal().startswith(f"{file}: unknown finding 'maybe' at row 0; known: Atelectasis, Cardiomegaly, ")
    elif bad.name == "padchest":
        assert (
            bad.refusal() == f"{file}: 'Labels' is 'maybe' at row 0, no list such as ['normal']; is the download whole?"
        )
    else:
        assert bad.refusal() == f"{file}: {column!r} is 'maybe' at row 0, which is no label value; {meant[bad.name]}"
