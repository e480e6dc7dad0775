"""Bytes of image files below one root folder, local or remote, and never from outside it. Decodes nothing."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from cxr_ray.imaging.pixels import ImageError
from cxr_ray.storage import remote
from cxr_ray.storage.names import Spellings

MISSING = "file missing"


class Root:
    """A folder, local or remote, that images are read from. Resolved subfolders are cached."""

    def __init__(self, path: str | os.PathLike[str] | remote.AnyPath) -> None:
        root = remote.to_path(path)
        self._remote = root if isinstance(root, remote.RemotePath) else None
        self._path = "" if isinstance(root, remote.RemotePath) else os.path.realpath(root)
        self._name = str(root)
        self._folders: dict[str, str] = {}  # folder as named -> folder with links resolved
        self._spellings = Spellings(self._path)

    def __str__(self) -> str:
        return self._name

    @property
    def is_remote(self) -> bool:
        """Whether each read is a request to a server."""
        return self._remote is not None

    def read(self, image: str) -> bytes:
        """The bytes of the file `image`, a path relative to this root. A local file may be spelled otherwise, see
        `storage.names.Spellings`.

        Raises `ImageError`: outside the root (absolute, `..`, or a link that leaves it), no file named (blank), file missing, not a
        regular file, file unreadable. Raises `UserError` if the server of a remote root does not answer: the image is not at fault."""
        if not image:
            raise ImageError("no file named")
        if "\0" in image:
            raise ImageError(MISSING)
        if self._remote is not None:
            if image.startswith("/") or ".." in PurePosixPath(image).parts:
                raise ImageError("outside the root")
            try:
                return (self._remote / image).read_bytes()
            except FileNotFoundError:
                raise ImageError(MISSING) from None
        try:
            return self._read_local(image)
        except ImageError as error:
            if error.reason != MISSING or (found := self._spellings.find(image)) in (None, image):
                raise
            return self._read_local(found)

    def _read_local(self, image: str) -> bytes:
        folder, name = os.path.split(os.path.join(self._path, image))  # noqa: PTH118 (pathlib costs more than a small read)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        path = os.path.join(self._folders[folder], name)  # noqa: PTH118
        if name in ("", ".", ".."):
            path = os.path.realpath(path)
        try:
            return self._read(path)
        except OSError as error:
            if error.errno == errno.ELOOP:  # the file is a link: check its target
                try:
                    return self._read(os.path.realpath(path))
                except OSError as other:
                    error = other
            missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
            raise ImageError(MISSING if missing else "file unreadable") from None

    def read_each(self, images: Sequence[str]) -> Iterator[bytes | ImageError]:
        """The bytes of each image in order, or why it cannot be read. Requests to a remote root run in parallel."""
        return remote.map_threaded(self._try_read, images) if self._remote is not None else map(self._try_read, images)

    def _try_read(self, image: str) -> bytes | ImageError:
        try:
            return self.read(image)
        except ImageError as error:
            return error

    def _read(self, path: str) -> bytes:
        if not path.startswith(self._path.rstrip(os.sep) + os.sep):
            raise ImageError("outside the root")
        # O_NONBLOCK: opening a pipe would hang
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ImageError("not a regular file")
            with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)


def read(root: str | os.PathLike[str] | remote.AnyPath, image: str) -> bytes:
    """The bytes of one image below `root`; see `Root.read`."""
    return Root(root).read(image)
