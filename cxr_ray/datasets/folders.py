"""Finding files in a dataset's folders: in a fixed order, none outside the root. Reads names and image headers, no pixels."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import pandas as pd
from PIL import Image

from cxr_ray.errors import UserError
from cxr_ray.imaging.dicom import HEAD_BYTES, is_dicom
from cxr_ray.storage import remote
from cxr_ray.storage.names import common_spelling, readable
from cxr_ray.storage.remote import AnyPath, RemotePath

DICOM_EXTENSIONS = (".dcm", ".dicom")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", *DICOM_EXTENSIONS)
RARE_EXTENSIONS = (".dic", ".ima")
"""DICOMs of some writers."""
HIDDEN = "hidden"
"""In the counts of `find_images`: hidden files, and hidden folders with all that is in them."""
OUTSIDE, AGAIN = "by a link out of the folder", "by a link to another folder of it"
"""In the counts of `find_pictures`: folders that are links, to outside or to one whose images are found anyway."""


def subfolders(folder: AnyPath) -> list[str]:
    """Names of the folders in `folder`, sorted, without hidden ones."""
    if isinstance(folder, RemotePath):
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if _is_folder(e) and not _is_hidden(e.name))


def find_images(
    folder: AnyPath, root: AnyPath, extensions: tuple[str, ...] | None = EXTENSIONS, *, refuse_links: bool = True
) -> tuple[list[str], Counter[str]]:
    """Images at any depth of `folder` as sorted posix paths below `root`, and counts of the other files by extension. With
    `extensions` None every file is an image, and the others are the `HIDDEN` files and folders. Bytes of a name that are not UTF-8
    are written %F1 (`storage.names`).

    Hidden files (.DS_Store, ._copy.png) are ignored otherwise. Raises `UserError` for a link out of `root`, and for one to a folder; not
    so without `refuse_links`: files that are links out of it are found, for whoever reads them to refuse, and folders are counted."""
    found: list[str] = []
    others: Counter[str] = Counter()
    skipped = others if extensions is None else Counter()
    for path in map(readable, _files(folder, root, skipped, refuse_links=refuse_links)):
        suffix = PurePosixPath(path).suffix.lower()
        if extensions is None or suffix in extensions:
            found.append(path)
        else:
            others[suffix or "without an ending"] += 1
    return sorted(found), others


def find_pictures(folder: AnyPath, *, refuse_links: bool = True) -> tuple[list[str], Counter[str]]:
    """As `find_images`, for folders of unknown content: also DICOMs without one of the `EXTENSIONS`, whose names often are UIDs. Files
    without an extension, or with one of digits, are opened for that, unless they are links."""
    every, skipped = find_images(folder, folder, None, refuse_links=refuse_links)
    found, unknown = [], []
    others: Counter[str] = Counter({kind: skipped[kind] for kind in (OUTSIDE, AGAIN) if skipped[kind]})
    for path in every:
        suffix = PurePosixPath(path).suffix.lower()
        if suffix in EXTENSIONS:
            found.append(path)
        elif suffix.removeprefix(".").isdigit() or suffix in ("", *RARE_EXTENSIONS):
            unknown.append(path)
        else:
            others[suffix] += 1
    for path, head in zip(unknown, remote.map_threaded(lambda name: _head(folder / name), unknown), strict=True):
        if is_dicom(head) and PurePosixPath(path).name != "DICOMDIR":
            found.append(path)
        else:
            others[PurePosixPath(path).suffix.lower() or "without an ending"] += 1
    return sorted(found), others


def _head(path: AnyPath) -> bytes:
    """The first bytes of a file; none if it cannot be read, or is a link, which may lead anywhere."""
    if isinstance(path, Path) and path.is_symlink():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def note_of_others(others: Counter[str]) -> list[str]:
    """A note with the counts of files that are not images, of `find_images`; none if there are none."""
    return [f"files in the class folders that are not images were left out: {kinds_of(others)}"] if others else []


def kinds_of(others: Mapping[str, int], *, most: int = 5) -> str:
    """How many files have each ending, the most frequent `most` by name: `9 .csv, 2 .txt`."""
    ordered = sorted(others.items(), key=lambda each: (-each[1], each[0]))
    shown = [f"{count:,} {kind}" for kind, count in ordered[:most]]
    rest = sum(count for _, count in ordered[most:])
    return ", ".join([*shown, *([f"{rest:,} of other kinds"] if rest else [])])


def _files(folder: AnyPath, root: AnyPath, skipped: Counter[str], *, refuse_links: bool) -> Iterator[str]:
    """Posix paths below `root` of the files at any depth of `folder`, unordered, without hidden ones, which `skipped` counts, as it does
    folders that are links unless these are refused."""
    if isinstance(folder, RemotePath):
        assert isinstance(root, RemotePath)
        above = folder.relative_to(root)
        for name in folder.files():
            if any(map(_is_hidden, name.split("/"))):
                skipped[HIDDEN] += 1
            else:
                yield (above / name).as_posix()
        return
    assert isinstance(root, Path)
    resolved_root = root.resolve()
    stack = [folder]
    while stack:
        parent = stack.pop()
        if parent.is_symlink() and _is_outside(parent, resolved_root):
            raise _outside(parent, resolved_root)
        with os.scandir(parent) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    skipped[HIDDEN] += 1
                    continue
                path = parent / entry.name
                leaves = entry.is_symlink() and _is_outside(path, resolved_root)
                if leaves and refuse_links:
                    raise _outside(path, resolved_root)
                if _is_folder(entry) and entry.is_symlink():
                    if refuse_links:
                        raise UserError(
                            f"{path} is a link to another folder of the dataset: its images would count twice; remove it"
                        )
                    skipped[OUTSIDE if leaves else AGAIN] += 1
                elif _is_folder(entry):
                    stack.append(path)
                else:
                    yield path.relative_to(root).as_posix()


def find_file(root: AnyPath, pattern: str) -> AnyPath:
    """The file in `root` that matches `pattern`; of several, the last by name, which is the latest version.

    Raises `UserError` if there is none; it names a subfolder of `root` that has one."""
    found = sorted(path for path in root.glob(pattern) if path.is_file() and not _is_hidden(path.name))
    if found:
        return found[-1]
    inner = [folder for folder in subfolders(root) if any(path.is_file() for path in (root / folder).glob(pattern))]
    hint = f"it is in {(root / inner[0]).absolute()}: give that folder" if inner else "give the folder that contains it"
    raise UserError(f"no {pattern} in {root.absolute()}; {hint}")


def resolve_file(name: str, root: AnyPath) -> AnyPath:
    """The file that an option names: a URL, a path from the current folder, or else a path below `root`."""
    path = remote.to_path(name)
    return path if isinstance(path, RemotePath) or path.is_file() else root / name


def paths_by_name(root: AnyPath, folders: Iterable[str], *, stem: bool = False) -> dict[str, str]:
    """File name in its common spelling (`stem`: without extension) to posix path below `root`, of all images at any depth of `folders`
    below `root`.
    If several folders have a name, the first folder counts."""
    paths: dict[str, str] = {}
    for folder in folders:
        if not (root / folder).is_dir():
            continue
        for path in find_images(root / folder, root)[0]:
            name = common_spelling(path).rpartition("/")[2]
            paths.setdefault(name.rpartition(".")[0] if stem else name, path)
    return paths


def join_folder(folder: "str | pd.Series[str]", name: "pd.Series[str]") -> "pd.Series[str]":
    """folder/name of each row. A blank or absolute name stays unchanged, so that it is refused later."""
    prefix = (pd.Series(folder, index=name.index) + "/").str.removeprefix("/")
    return (prefix + name).where((name != "") & ~name.str.startswith("/"), name)


def locate(name: "pd.Series[str]", paths: Mapping[str, str], missing: "pd.Series[str]") -> "pd.Series[str]":
    """The path of each name by `paths_by_name`; the path in `missing` if there is none, so that the ingest reports the file."""
    return name.map(common_spelling).map(paths).astype(missing.dtype).fillna(missing)


def image_size(root: AnyPath, image: str) -> tuple[int, int] | None:
    """Width and height in pixels from the file's header; None if it does not exist or Pillow cannot read it."""
    try:
        with (root / image).open("rb") as file, Image.open(file) as opened:
            return opened.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_outside(link: Path, resolved_root: Path) -> bool:
    target = Path(os.path.realpath(link))  # Path.resolve raises for a link that leads to itself, which is no file
    return not target.is_relative_to(resolved_root)


def _outside(link: Path, resolved_root: Path) -> UserError:
    return UserError(f"{link} is a link out of {resolved_root}; replace it with a copy of its target")
