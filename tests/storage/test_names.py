"""Spellings of file names: each means the one file on disk, and never another."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.errors import UserError
from cxr_ray.storage.names import Spellings, common_spelling, readable
from cxr_ray.storage.remote import files_exist, to_path

NAME = st.text(st.sampled_from("aé\u0301e%_ 胸ñ."), min_size=1, max_size=6).filter(lambda name: set(name) - set("."))


@given(st.binary(max_size=12))
def test_every_name_becomes_text_that_can_be_written(raw: bytes) -> None:
    name = os.fsdecode(raw)
    text = readable(name)
    text.encode()
    try:
        assert text == raw.decode()
    except UnicodeDecodeError:
        assert "%" in text
    assert common_spelling(common_spelling(name)) == common_spelling(name)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(NAME, min_size=1, max_size=3).map(tuple), min_size=1, max_size=5, unique=True))
def test_each_spelling_finds_its_file(tmp_path_factory: pytest.TempPathFactory, paths: list[tuple[str, ...]]) -> None:
    """By its definition: the files on disk whose path is equal once both are composed and have slashes."""
    root = tmp_path_factory.mktemp("spelt")
    for parts in paths:
        if not any((root / Path(*parts[:n])).is_file() for n in range(1, len(parts) + 1)):
            file = root / Path(*parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_dir():
                file.write_bytes(b"")
    files = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
    spellings = Spellings(root)
    for path in ["/".join(parts) for parts in paths]:
        for asked in (path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD")), path.replace("/", "\\")):
            same = [file for file in files if common_spelling(file) == common_spelling(asked)]
            found = spellings.find(asked)
            assert found is None or common_spelling(found) == common_spelling(asked)
            if len(same) == 1 and not _is_ambiguous(root, same[0]):
                assert found == same[0]
            if len(same) > 1:
                assert found is None or found not in files or _is_ambiguous(root, found)


def _is_ambiguous(root: Path, file: str) -> bool:
    """Whether a folder on the way to `file`, or the file, has a sibling of the same spelling."""
    parts = file.split("/")
    return any(
        sum(common_spelling(entry.name) == common_spelling(part) for entry in (root / Path(*parts[:n])).iterdir()) > 1
        for n, part in enumerate(parts)
    )


def test_names_of_windows_archives_and_bytes_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    (tmp_path / "images\\a").mkdir()
    for name in (b"x\\1.png", b"images\\a/2.png", b"ni\xf1o.png"):
        Path(os.path.join(tmp_path, os.fsdecode(name))).write_bytes(b"")  # noqa: PTH118
    spellings = Spellings(tmp_path)
    assert spellings.find("x/1.png") == "x\\1.png" and spellings.find("images/a/2.png") == "images\\a/2.png"
    assert spellings.find("ni%F1o.png") == os.fsdecode(b"ni\xf1o.png")
    for outside in ("../x", "a/../../x", "/etc/passwd", "..\\x", "", "."):
        assert spellings.find(outside) is None
    asked = ["x/1.png", "images/a/2.png", "ni%F1o.png", "images/a", "ni%F2o.png"]
    assert files_exist(tmp_path, asked) == [True, True, True, False, False]


def test_a_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UserError, match="the path data/ni%F1o has bytes that are not UTF-8"):
        to_path(os.fsdecode(b"data/ni\xf1o"))
