"""Properties of every source: columns, types, and an error of one line for every mistake."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.data import filters
from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets import COLUMNS, Records, check_records, records_table
from cxr_ray.errors import UserError
from cxr_ray.labels import label_values
from cxr_ray.registry import SOURCES, Options
from tests.fakes.layouts import LAYOUTS, OPTIONS


@pytest.fixture(params=list(LAYOUTS))
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, LAYOUTS[request.param](tmp_path / "data")


def test_every_source_fulfils_the_contract(dataset: tuple[str, Path]) -> None:
    name, root = dataset
    options = OPTIONS.get(name, {})
    records = datasets.load(name, root, options)
    table = records.table
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert list(table.columns[-len(records.info.labels) :]) == list(records.info.labels)
    assert isinstance(table.index, pd.RangeIndex) and table.index.name == "row" and table.index[0] == 0
    assert table["image"].is_unique and all((root / path).is_file() for path in records.paths)
    assert table["source_row"].dtype == np.int64 and table["age"].dtype == np.float64
    assert all(
        pd.api.types.is_string_dtype(table[c])
        for c in ("image", "patient", "study", "view", "sex", "source", "mask", "split")
    )
    for label in records.info.labels:
        assert table[label].dtype == np.float32
        assert set(table[label].dropna().unique()) <= {1.0, 0.0, -1.0}
    assert set(table["split"].dropna()) <= {"train", "val", "test"}
    assert set(records.info.default_labels) <= set(records.info.labels)
    assert set(records.info.features) <= set(table.columns)
    for members in records.info.groups.values():
        assert set(members) <= set(records.info.labels)
    assert set(filters.dropping_filter(table, records.info.filters)) <= {
        "",
        *(rule.name for rule in records.info.filters),
    }
    if records.info.task == "multiclass":
        assert (table[list(records.info.labels)].sum(axis=1) == 1).all()
    pd.testing.assert_frame_equal(datasets.read(name, root, **options), table)  # the same when read again


def test_every_source_of_the_package_has_a_fake_and_a_description() -> None:
    entries = {e.name: e.about for e in SOURCES if e.make.__module__.startswith("cxr_ray.")}
    assert set(entries) == set(LAYOUTS), "add a fake of the new source to tests/fakes and to LAYOUTS"
    assert all(about.endswith(".") for about in entries.values())


def test_sources_import_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from cxr_ray import datasets; from cxr_ray.datasets.phantom import generate; from cxr_ray.registry import SOURCES; list(SOURCES); "
        "print([m for m in ('torch', 'ray', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_missing_root_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        datasets.load(name, tmp_path / "nowhere", OPTIONS.get(name))
    assert str(caught.value) == f"no folder at {tmp_path / 'nowhere'}; give the folder that holds the {name} dataset"


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("Path\n")
    with pytest.raises(UserError) as caught:
        datasets.load("chexpert", file)
    assert str(caught.value) == f"{file} is a file; give the folder that holds the chexpert dataset"


def test_an_unknown_source_and_an_unknown_option_name_the_closest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown source 'chexprt'; did you mean 'chexpert'"):
        datasets.load("chexprt", tmp_path)
    with pytest.raises(
        UserError, match=r"unknown option 'patient_regx' at options of image_folder; did you mean 'patient_regex'"
    ):
        datasets.load("image_folder", tmp_path, {"patient_regx": "(a)"})


def check(table: pd.DataFrame, root: Path, labels: tuple[str, ...] = ("A",)) -> Records:
    """Check `table` as the result of a source `mine`."""
    records = Records(table, DatasetInfo(labels=labels, task="multilabel", default_labels=labels))
    return check_records(records, root, "mine")


def table_of(images: list[Any], values: list[float]) -> pd.DataFrame:
    return records_table({"image": images}, {"A": values}, rows=len(images))


@pytest.mark.parametrize("path", ["/etc/x.png", "../x.png", "a/../../x.png", "..\\x.png", "C:/x.png", "C:\\x.png"])
def test_a_path_that_leaves_the_root_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check(table_of(["a/ok.png", path], [1, 0]), tmp_path)
    assert str(caught.value) == (
        f"mine: the path {path.replace(chr(92), '/')!r} in row 1 (counted from 0) of the table in {tmp_path} leads out of that folder; "
        "give paths below it"
    )


def test_dots_in_names_are_accepted(tmp_path: Path) -> None:
    check(table_of(["a..b/c...png", "..d/x.png"], [1, 0]), tmp_path)


def test_a_linked_folder_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="mine: train is a link out of"):
        check(table_of(["train/a.png"], [1]), tmp_path / "root")


def test_repeated_and_blank_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check(table_of(["a.png", "b.png", "a.png"], [1, 0, 0]), tmp_path)
    assert str(caught.value) == (
        f"mine: a.png is in row 0 and again in row 2 (counted from 0) of the table in {tmp_path}; repeated rows: 1; "
        "keep one row per image"
    )
    with pytest.raises(UserError) as caught:
        check(table_of(["a.png", None], [1, 0]), tmp_path)
    assert str(caught.value) == (
        f"mine: no image name in row 1 (counted from 0) of the table in {tmp_path}; rows without one: 1; "
        "fill in the names, or delete the rows"
    )


def test_a_wrong_label_value_is_refused_with_its_row(tmp_path: Path) -> None:
    check(table_of(["a", "b", "c", "d"], [1, 0, -1, np.nan]), tmp_path)
    with pytest.raises(UserError) as caught:
        check(table_of(["a", "b"], [1, 2]), tmp_path)
    assert str(caught.value) == (
        f"mine: the label 'A' is 2 in row 1 (counted from 0) of the table in {tmp_path} (b); "
        "correct it to 1 (positive), 0 (negative), -1 (uncertain) or blank"
    )


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check(table_of([], []), tmp_path)
    assert str(caught.value) == f"mine: the table in {tmp_path} lists no image; give the folder of a complete dataset"


def test_records_know_their_source(tmp_path: Path) -> None:
    root = LAYOUTS["image_folder"](tmp_path / "data")
    records = datasets.read_dataset("image_folder", str(root), **OPTIONS.get("image_folder", {}))
    assert records.source == "image_folder"
    assert "image_folder" in datasets.list_datasets() == [entry.name for entry in SOURCES]
    with pytest.raises(UserError, match=r"unknown option 'patient_regx'.*did you mean 'patient_regex'"):
        datasets.read_dataset("image_folder", root, patient_regx="x")


def test_a_source_that_builds_its_records_as_in_an_earlier_version_gets_one_line(tmp_path: Path) -> None:
    @SOURCES.register("old_records")
    def old_records(root: Path, options: Options) -> Records:
        """Builds Records with the fields of 0.1.0."""
        return Records(table=pd.DataFrame(), labels=("A",), task="multilabel")  # type: ignore[call-arg]

    try:
        with pytest.raises(UserError, match=r"the source old_records builds its Records as in 0\.1\.0 .*DatasetInfo\("):
            datasets.load("old_records", tmp_path)
    finally:
        SOURCES.unregister("old_records")


@pytest.mark.parametrize("name", ["all", "mean", "macro", "micro", "weighted"])
def test_a_label_with_a_name_that_means_several_labels_is_refused(name: str, tmp_path: Path) -> None:
    table = records_table({"image": ["a.png"]}, {name: [1.0]}, rows=1)
    with pytest.raises(UserError, match=f"a label cannot be called '{name}', which means several labels"):
        check_records(Records(table, DatasetInfo(labels=(name,), task="binary")), tmp_path, "made")


def test_labels_with_the_names_of_columns_get_columns_of_their_own(tmp_path: Path) -> None:
    """Of a column of the records, of the source, of the store; also in a table that a plugin made itself."""
    columns = {"image": ["a.png", "b.png"], "view": ["PA", "AP"], "kind": ["x", "y"]}
    labels = {"view": [1.0, 0.0], "kind": [0.0, 1.0], "left": [1.0, 1.0], "Edema": [0.0, 0.0]}
    info = DatasetInfo(labels=tuple(labels), task="multilabel")
    table = records_table(columns, labels, rows=2)
    assert list(table.columns[-4:]) == ["label/view", "label/kind", "label/left", "Edema"]
    for given in (table, table.rename(columns={"label/left": "left"})):
        checked = check_records(Records(given, info), tmp_path, "made").table
        assert label_values(checked, info.labels).to_dict("list") == labels
        assert checked["view"].tolist() == ["PA", "AP"] and checked["kind"].tolist() == ["x", "y"]
