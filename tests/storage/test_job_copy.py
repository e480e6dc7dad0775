"""Paths in the copy of the working directory that Ray makes for a job: nothing is written there, and nothing is missed without the reason."""

from pathlib import Path

import pytest

from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.storage.atomic import make_folder, write_atomic
from cxr_ray.storage.job_copy import place_in_copy


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a job."""
    folder = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_a_relative_output_is_refused_before_anything_is_written(copy: Path) -> None:
    message = r"^runs/first would be written to Ray's copy .* an absolute path .*--output /data/runs"
    with pytest.raises(UserError, match=message):
        make_folder(Path("runs/first"))
    with pytest.raises(UserError, match=message):
        write_atomic(Path("runs/first"), "text")
    assert list(copy.iterdir()) == []


def test_other_folders_are_written(copy: Path, tmp_path: Path) -> None:
    for name in ("runs", "runtime_resources/runs", "working_dir_files/runs"):
        make_folder(tmp_path / name)
        assert place_in_copy(tmp_path / name) is None


def test_a_relative_store_that_is_missing_is_explained(copy: Path) -> None:
    with pytest.raises(UserError, match=r"^no store at shards/mine in Ray's copy .* give its absolute path$"):
        stores.open("shards/mine")
