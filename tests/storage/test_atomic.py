"""Atomic writes: a failed one changes nothing, a successful one returns size and checksum."""

import errno
import hashlib
from pathlib import Path

import pytest

from cxr_ray.errors import UserError
from cxr_ray.storage import atomic


@pytest.mark.parametrize("body", ["Befund: ä", b"\x00\x01", lambda file: [file.write(b"ab"), file.write(b"c")]])
def test_the_returned_size_and_checksum_are_those_of_the_file(tmp_path: Path, body: object) -> None:
    written = atomic.write_atomic(tmp_path / "x", body)  # type: ignore[arg-type]
    data = (tmp_path / "x").read_bytes()
    assert written == (len(data), hashlib.sha256(data).hexdigest()) == (len(data), atomic.sha256(tmp_path / "x"))
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("before")

    def fail(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        atomic.write_atomic(tmp_path / "x", fail)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "before")]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space left to write"), (errno.EDQUOT, "no space left"), (errno.EROFS, "cannot write .*choose")],
)
def test_a_full_or_read_only_disk_raises_a_user_error(tmp_path: Path, number: int, message: str) -> None:
    def fail(file: object) -> None:
        raise OSError(number, "failed")

    with pytest.raises(UserError, match=message):
        atomic.write_atomic(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_really_full_disk_raises_a_user_error() -> None:
    with pytest.raises(UserError, match="no space left"):
        atomic.write_atomic(Path("/dev/shm") / "never", _fill)


def _fill(file: object) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


# Folders


def test_a_folder_appears_complete_and_replaces_its_own_kind(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic.replace_folder(tmp_path / "out", marker="page.html") as folder:
            assert folder.parent == tmp_path and not (folder / "page.html").exists()
            (folder / "page.html").write_text(text)
            (folder / f"{text}.txt").write_text(text)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["page.html", "second.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [UserError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_failed_folder_leaves_the_earlier_one(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "page.html").write_text("first")
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), atomic.replace_folder(tmp_path / "out", marker="page.html") as folder:
        (folder / "page.html").write_text("second")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "page.html").read_text() == "first"


def test_a_folder_of_someone_else_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with (
        pytest.raises(UserError, match="was not written by this command"),
        atomic.replace_folder(tmp_path / "out", marker="page.html"),
    ):
        raise AssertionError("the block must not run")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
