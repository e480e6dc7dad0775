"""Folders of pictures: which files are images, in a fixed order, none of them outside the root. Reads names and headers, no pixels."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import pandas as pd
from PIL import Image

from cxr_ray.errors import UserError
from cxr_ray.storage import remote
from cxr_ray.storage.remote import Place, Remote

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".dcm", ".dicom")


def subfolders(folder: Place) -> list[str]:
    """Names of the folders in `folder`, sorted, without hidden ones."""
    if isinstance(folder, Remote):
        return sorted(place.name for place in folder.iterdir() if place.is_dir() and not _hidden(place.name))
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not _hidden(e.name))


def images(
    folder: Place, root: Place, extensions: tuple[str, ...] | None = EXTENSIONS
) -> tuple[list[str], Counter[str]]:
    """Images at any depth of `folder` as posix paths below `root`, sorted, and the other files counted by extension; with
    `extensions` None every file is among the first.

    Hidden files (.DS_Store, ._copy.png) are neither. Raises `UserError` for a link that leaves `root`."""
    found: list[str] = []
    others: Counter[str] = Counter()
    for path in _files(folder, root):
        suffix = PurePosixPath(path).suffix.lower()
        if extensions is None or suffix in extensions:
            found.append(path)
        else:
            others[suffix or "(none)"] += 1
    return sorted(found), others


def _files(folder: Place, root: Place) -> Iterator[str]:
    """Posix paths below `root` of the files at any depth of `folder`, in any order, without hidden ones."""
    if isinstance(folder, Remote):
        assert isinstance(root, Remote)
        above = folder.relative_to(root)
        yield from ((above / name).as_posix() for name in folder.files() if not any(map(_hidden, name.split("/"))))
        return
    assert isinstance(root, Path)
    inside = root.resolve()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if here.is_symlink():
            _refuse_leaving(here, inside)
        with os.scandir(here) as entries:
            for entry in entries:
                if _hidden(entry.name):
                    continue
                path = here / entry.name
                if entry.is_symlink():
                    _refuse_leaving(path, inside)
                if entry.is_dir():
                    if entry.is_symlink():
                        raise UserError(
                            f"{path} is a link to another folder of the dataset: its images would count twice; remove it"
                        )
                    waiting.append(path)
                else:
                    yield path.relative_to(root).as_posix()


def file_like(root: Place, pattern: str) -> Place:
    """The file in `root` that fits `pattern`, the last by name where several do (a later version is called so).

    Raises `UserError` where there is none; it names the folder inside `root` that has one."""
    found = sorted(path for path in root.glob(pattern) if path.is_file() and not _hidden(path.name))
    if found:
        return found[-1]
    inner = [folder for folder in subfolders(root) if any(path.is_file() for path in (root / folder).glob(pattern))]
    hint = f"it lies in {(root / inner[0]).absolute()}: give that folder" if inner else "give the folder that holds it"
    raise UserError(f"no {pattern} in {root.absolute()}; {hint}")


def given_file(name: str, root: Place) -> Place:
    """A file that an option names: a URL, or a path as the user stands, else below `root`."""
    place = remote.place(name)
    return place if isinstance(place, Remote) or place.is_file() else root / name


def by_name(root: Place, homes: Iterable[str], *, stem: bool = False) -> dict[str, str]:
    """File name (without its extension: `stem`) to posix path below `root`, of all images at any depth of `homes`, folders
    below `root`; a name that several hold is the first one's."""
    there: dict[str, str] = {}
    for home in homes:
        if not (root / home).is_dir():
            continue
        for path in images(root / home, root)[0]:
            name = path.rpartition("/")[2]
            there.setdefault(name.rpartition(".")[0] if stem else name, path)
    return there


def below(folder: "str | pd.Series[str]", name: "pd.Series[str]") -> "pd.Series[str]":
    """folder/name of each row. A name that is blank or absolute stays what it is, and is refused as such."""
    prefix = (pd.Series(folder, index=name.index) + "/").str.removeprefix("/")
    return (prefix + name).where((name != "") & ~name.str.startswith("/"), name)


def placed(name: "pd.Series[str]", there: Mapping[str, str], missing: "pd.Series[str]") -> "pd.Series[str]":
    """Where each name lies, by `by_name`; the path in `missing` where it is nowhere, so that ingest says that it is missing."""
    return name.map(there).astype(missing.dtype).fillna(missing)


def picture_size(root: Place, image: str) -> tuple[int, int] | None:
    """Width and height in pixels by the file's header; None where it is not there or is no picture that Pillow reads."""
    try:
        with (root / image).open("rb") as file, Image.open(file) as picture:
            return picture.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _refuse_leaving(path: Path, inside: Path) -> None:
    if not path.resolve().is_relative_to(inside):
        raise UserError(f"{path} is a link out of {inside}; copy its target there")
