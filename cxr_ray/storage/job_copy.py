"""The copy of a working directory that Ray makes for a job. Relative paths of a job lie in it, since it is the job's current folder."""

from itertools import pairwise
from pathlib import Path

from cxr_ray.errors import UserError
from cxr_ray.storage.remote import AnyPath, RemotePath

MARK = ("runtime_resources", "working_dir_files")
"""Folders of a Ray session, followed by one per uploaded package."""


def place_in_copy(path: AnyPath) -> Path | None:
    """The part of `path` within Ray's copy of a working directory; None if it lies elsewhere."""
    if isinstance(path, RemotePath):
        return None
    parts = path.absolute().parts
    for at, pair in enumerate(pairwise(parts)):
        if pair == MARK:
            return Path(*parts[at + 3 :])
    return None


def check_lasting(path: AnyPath) -> None:
    """Raises `UserError` if what is written to `path` would not last: other nodes have copies of their own, and Ray deletes them."""
    place = place_in_copy(path)
    if place is not None:
        raise UserError(
            f"{place} would be written to Ray's copy of the working directory, which no other node sees and which Ray deletes: give "
            "an absolute path on storage that all nodes share, such as --output /data/runs"
        )
