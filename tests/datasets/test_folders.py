"""Files of a dataset, found by name or pattern."""

from pathlib import Path

import pandas as pd
import pytest

from cxr_ray.datasets import folders
from cxr_ray.datasets.tables import TEXT
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.pixels import ImageError
from tests.fakes.pictures import picture


def column(values: list[str]) -> "pd.Series[str]":
    return pd.Series(values, dtype=TEXT)


def test_files_are_found_by_name_in_the_first_folder_that_has_them(tmp_path: Path) -> None:
    for path in ("b/deep/1.png", "a/1.png", "a/2.jpg", "c/3.png"):
        picture(tmp_path / path)
    assert folders.paths_by_name(tmp_path, ["a", "b", "nowhere"]) == {"1.png": "a/1.png", "2.jpg": "a/2.jpg"}
    assert folders.paths_by_name(tmp_path, ["b", "a"], stem=True) == {"1": "b/deep/1.png", "2": "a/2.jpg"}
    name = column(["1.png", "9.png", "", "/etc/x.png"])
    found = folders.locate(name, folders.paths_by_name(tmp_path, ["b"]), folders.join_folder("images", name))
    assert found.tolist() == ["b/deep/1.png", "images/9.png", "", "/etc/x.png"]
    assert folders.join_folder(column(["x", "", "x", "x"]), name).tolist() == ["x/1.png", "9.png", "", "/etc/x.png"]


def test_the_latest_of_several_files_is_chosen(tmp_path: Path) -> None:
    for name in ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv", "._Data_Entry_2017_v3000.csv"):
        (tmp_path / name).write_text("x")
    assert folders.find_file(tmp_path, "*Data_Entry_2017*.csv").name == "Data_Entry_2017_v2020.csv"


def test_other_files_are_counted_by_ending() -> None:
    counts = {".a": 1, ".b": 3, ".c": 2, ".d": 1, ".e": 1, ".f": 1_200, ".g": 1}
    assert folders.kinds_of(counts) == "1,200 .f, 3 .b, 2 .c, 1 .a, 1 .d, 2 of other kinds"
    assert folders.kinds_of({}) == ""


def test_a_link_that_leads_to_itself_is_listed_and_has_no_content(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert folders.find_pictures(tmp_path) == (["a.png", "b.png"], {})
    with pytest.raises(ImageError, match="file unreadable"):
        Root(tmp_path).read("a.png")
