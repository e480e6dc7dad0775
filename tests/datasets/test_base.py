"""What every source promises: the columns, their types, and one line for every mistake."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.data import plan
from cxr_ray.datasets import COLUMNS, Records, base, class_columns, records_table
from cxr_ray.errors import UserError
from cxr_ray.registry import SOURCES
from tests.fakes.layouts import LAYOUTS, OPTIONS


@pytest.fixture(params=list(LAYOUTS))
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, LAYOUTS[request.param](tmp_path / "data")


def test_the_contract_holds_for_every_source(dataset: tuple[str, Path]) -> None:
    name, root = dataset
    options = OPTIONS.get(name, {})
    records = datasets.load(name, root, options)
    table = records.table
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert list(table.columns[-len(records.labels) :]) == list(records.labels)
    assert isinstance(table.index, pd.RangeIndex) and table.index.name == "row" and table.index[0] == 0
    assert table["image"].is_unique and all((root / path).is_file() for path in records.places)
    assert table["source_row"].dtype == np.int64 and table["age"].dtype == np.float64
    assert all(
        pd.api.types.is_string_dtype(table[c])
        for c in ("image", "patient", "study", "view", "sex", "source", "mask", "split")
    )
    for label in records.labels:
        assert table[label].dtype == np.float32
        assert set(table[label].dropna().unique()) <= {1.0, 0.0, -1.0}
    assert set(table["split"].dropna()) <= {"train", "val", "test"}
    assert set(records.default_labels) <= set(records.labels)
    assert set(records.features) <= set(table.columns)
    for members in records.groups.values():
        assert set(members) <= set(records.labels)
    assert set(plan.drop_by(table, records.filters)) <= {"", *(rule.name for rule in records.filters)}
    if records.task == "multiclass":
        assert (table[list(records.labels)].sum(axis=1) == 1).all()
    pd.testing.assert_frame_equal(datasets.read(name, root, **options), table)  # and twice the same


def test_every_source_of_the_package_has_a_fake_and_a_line() -> None:
    entries = {e.name: e.about for e in SOURCES if e.make.__module__.startswith("cxr_ray.")}
    assert set(entries) == set(LAYOUTS), "add a fake of the new source to tests/fakes and to LAYOUTS"
    assert all(about.endswith(".") for about in entries.values())


def test_sources_pull_in_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from cxr_ray import datasets; from cxr_ray.datasets.phantom import generate; from cxr_ray.registry import SOURCES; list(SOURCES); "
        "print([m for m in ('torch', 'ray', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_missing_root_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as said:
        datasets.load(name, tmp_path / "nowhere", OPTIONS.get(name))
    assert str(said.value) == f"no folder at {tmp_path / 'nowhere'}; give the folder that holds the {name} dataset"


def test_a_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("Path\n")
    with pytest.raises(UserError) as said:
        datasets.load("chexpert", file)
    assert str(said.value) == f"{file} is a file; give the folder that holds the chexpert dataset"


def test_an_unknown_source_and_an_unknown_option_name_the_closest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown source 'chexprt'; did you mean 'chexpert'"):
        datasets.load("chexprt", tmp_path)
    with pytest.raises(
        UserError, match="unknown option 'patient_regx' at options of image_folder; did you mean 'patient_regex'"
    ):
        datasets.load("image_folder", tmp_path, {"patient_regx": "(a)"})


def checked(table: pd.DataFrame, root: Path, labels: tuple[str, ...] = ("A",)) -> Records:
    """`table` through load's checks, as if a source had made it."""
    records = Records(table, labels, "multilabel", {}, (), labels, (), (), None)
    return base._checked(records, root, "made")


def table_of(images: list[Any], values: list[float]) -> pd.DataFrame:
    return records_table({"image": images}, {"A": values}, rows=len(images))


@pytest.mark.parametrize("path", ["/etc/x.png", "../x.png", "a/../../x.png", "..\\x.png", "C:/x.png"])
def test_a_path_that_leaves_the_root_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as said:
        checked(table_of(["a/ok.png", path], [1, 0]), tmp_path)
    assert str(said.value) == f"made: {path!r} leaves {tmp_path}; paths in the table must stay below it"


def test_dots_inside_names_are_no_way_out(tmp_path: Path) -> None:
    checked(table_of(["a..b/c...png", "..d/x.png"], [1, 0]), tmp_path)


def test_a_linked_folder_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="train is a link out of"):
        checked(table_of(["train/a.png"], [1]), tmp_path / "root")


def test_doubled_and_blank_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as said:
        checked(table_of(["a.png", "b.png", "a.png"], [1, 0, 0]), tmp_path)
    assert str(said.value) == "made: a.png is listed twice (1 rows in all); drop the doubled rows"
    with pytest.raises(UserError) as said:
        checked(table_of(["a.png", None], [1, 0]), tmp_path)
    assert str(said.value) == "made: 1 rows name no image, the first is row 1; mend the table"


def test_a_label_that_is_no_label_is_refused_with_its_line(tmp_path: Path) -> None:
    checked(table_of(["a", "b", "c", "d"], [1, 0, -1, np.nan]), tmp_path)
    with pytest.raises(UserError) as said:
        checked(table_of(["a", "b"], [1, 2]), tmp_path)
    assert (
        str(said.value)
        == "made: 'A' is 2 at line 1 (b); a label is 1 (positive), 0 (negative), -1 (uncertain) or blank"
    )


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image is listed in"):
        checked(table_of([], []), tmp_path)


@pytest.mark.parametrize(
    "name", ["normal", "Normal", "NO_FINDING", "No findings", "no-findings", "negative", "Healthy"]
)
def test_of_two_classes_the_unremarkable_one_is_zero(name: str) -> None:
    task, columns = class_columns([name, "Covid", "Covid"], [name, "Covid"])
    assert task == "binary"
    assert {k: v.tolist() for k, v in columns.items()} == {"Covid": [0.0, 1.0, 1.0]}


def test_two_classes_that_do_not_tell_ask_for_positive() -> None:
    for classes, which in ((["Viral", "Bacterial"], "neither"), (["normal", "healthy"], "each")):
        with pytest.raises(UserError) as said:
            class_columns(classes, classes)
        first, second = sorted(classes)
        assert str(said.value) == (
            f"which class is the finding? {which} of {first!r} and {second!r} is called normal, no finding, negative or "
            "healthy; say it with --positive NAME"
        )
        task, columns = class_columns(classes, classes, positive=classes[0])
        assert task == "binary" and {k: v.tolist() for k, v in columns.items()} == {classes[0]: [1.0, 0.0]}


def test_positive_must_be_one_of_two_classes() -> None:
    with pytest.raises(UserError, match="unknown class 'Covd' for --positive; did you mean 'Covid'"):
        class_columns(["Covid", "normal"], ["Covid", "normal"], positive="Covd")
    with pytest.raises(UserError, match="--positive is for two classes; here are 3"):
        class_columns(["a", "b", "c"], ["a", "b", "c"], positive="a")


def test_label_names_are_safe_and_do_not_collide() -> None:
    task, columns = class_columns(["a/b", "c.d", "e"], ["a/b", "c.d", "e"])
    assert task == "multiclass" and list(columns) == ["a_b", "c_d", "e"]
    with pytest.raises(UserError, match="two classes share the name of one label"):
        class_columns(["a/b", "a.b", "c"], ["a/b", "a.b", "c"])
