"""Reading image files: links, missing files, pipes, and nothing outside the root."""

import os
import unicodedata
from pathlib import Path

import pytest

from cxr_ray.imaging.files import Root, read
from cxr_ray.imaging.pixels import ImageError


def test_nothing_outside_the_root_is_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x.png").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "y.png").write_bytes(b"a sibling whose name has the same prefix")
    (root / "link.png").symlink_to(tmp_path / "secret")
    (root / "good_link.png").symlink_to(root / "a" / "x.png")
    (root / "b").symlink_to(tmp_path / "root2")  # a folder that leads outside
    (root / "c").symlink_to(root / "a")
    (root / "dead.png").symlink_to(root / "none.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    assert (
        read(root, "a/x.png")
        == b"inside"
        == read(root, "good_link.png")
        == read(root, "c/x.png")
        == read(root, "c/../a/x.png")
    )
    for image in (
        "../secret",
        "link.png",
        str(tmp_path / "secret"),
        "a/../../secret",
        "../root2/y.png",
        "b/y.png",
        "..",
        ".",
    ):
        with pytest.raises(ImageError, match="outside the root"):
            read(root, image)
    cached = Root(root)  # the cache of folders changes no result
    for _ in range(2):
        assert cached.read("a/x.png") == b"inside"
        with pytest.raises(ImageError, match="outside the root"):
            cached.read("b/y.png")
    for image in ("dead.png", "loop.png"):
        with pytest.raises(ImageError, match=r"file missing|file unreadable"):
            read(root, image)
    with pytest.raises(ImageError, match="file missing"):
        read(root, "a/none.png")
    with pytest.raises(ImageError, match="file missing"):
        read(root, "a/x.png/none.png")
    with pytest.raises(ImageError, match="file missing"):
        read(root, "a\0b.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read(root, "a")


def test_a_remote_root_is_read_like_a_local_one(s3, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/x.png", "y.png"):
        (tmp_path / name).write_bytes(name.encode())
    url = s3.upload(tmp_path, "root/images")
    (tmp_path / "secret").write_bytes(b"outside")
    images = ["y.png", "a/x.png", "a/none.png", "../secret", "a/../../secret", "/etc/passwd", "a\0b.png"]
    reasons = ["file missing", "outside the root", "outside the root", "outside the root", "file missing"]
    for root in (url, tmp_path / "."):
        found = list(Root(root).read_each(images))
        assert found[:2] == [b"y.png", b"a/x.png"]
        assert [str(error) for error in found[2:] if isinstance(error, ImageError)] == reasons, root


def test_opening_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read(tmp_path, "pipe.png")


def test_a_file_is_read_under_each_spelling_of_its_name(tmp_path: Path) -> None:
    """A table of Windows names a file that macOS wrote; the exact name counts first; links out of the root stay refused."""
    composed, decomposed = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"secret")
    root = Root(tmp_path / "root")
    (tmp_path / "root" / "a" / decomposed).write_bytes(b"one")
    (tmp_path / "root" / "a" / "ñ").symlink_to(tmp_path / "outside")
    assert root.read(f"a/{composed}") == root.read(f"a\\{composed}") == root.read(f"a/{decomposed}") == b"one"
    for name, reason in (("a/n\u0303", "outside the root"), ("a/ö.png", "file missing")):
        with pytest.raises(ImageError, match=reason):
            root.read(name)
    (tmp_path / "root" / "a" / composed).write_bytes(b"two")
    assert Root(tmp_path / "root").read(f"a/{composed}") == b"two"
    with pytest.raises(ImageError, match="file missing"):  # which of the two?
        Root(tmp_path / "root").read(f"a\\{composed}")
