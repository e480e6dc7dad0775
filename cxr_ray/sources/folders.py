"""Folders of pictures: which files are images, in a fixed order, none of them outside the root. Reads no pixels."""

import os
from collections import Counter
from pathlib import Path

from cxr_ray.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".dcm")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not _hidden(e.name))


def images(folder: Path, root: Path) -> tuple[list[str], Counter[str]]:
    """Images at any depth of `folder` as posix paths below `root`, sorted, and the other files counted by extension.

    Hidden files (.DS_Store, ._copy.png) are neither. Raises `UserError` for a link that leaves `root`."""
    found: list[str] = []
    others: Counter[str] = Counter()
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
                elif path.suffix.lower() in EXTENSIONS:
                    found.append(path.relative_to(root).as_posix())
                else:
                    others[path.suffix.lower() or "(none)"] += 1
    return sorted(found), others


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _refuse_leaving(path: Path, inside: Path) -> None:
    if not path.resolve().is_relative_to(inside):
        raise UserError(f"{path} is a link out of {inside}; copy its target there")
