"""A place that may be remote: a `pathlib.Path`, or a `Remote` below s3://, gs:// or abfs:// through pyarrow's file systems.

A `Remote` answers what sources, ingest and shards ask of a `Path`, so that each of them is written once. Credentials come
from the environment and never from a URL, which configs and logs repeat; options such as ?endpoint_override=HOST:PORT&
scheme=http stand in the URL. An object appears whole when its upload is closed, so writing needs no temporary name; there
are no locks, no links and no empty folders.
"""

import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache, total_ordering
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from cxr_ray.errors import UserError

CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or log in with gcloud auth application-default login",
    "abfs": "set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or log in with az login",
}
"""What each kind of file system reads its credentials from."""
SCHEMES = {"s3": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfs"}
PIECE = 2**20
"""Bytes of a read from a remote file: a request costs tens of milliseconds whatever it brings."""
AT_ONCE = 16
"""Requests in flight where many small files are read or copied."""


class Stat(NamedTuple):
    """What a file system tells of a file."""

    st_size: int
    st_mtime: float


@total_ordering
class Remote:
    """A file or folder of an object store, as far as a `Path` is asked here. What it asks of the server raises
    `FileNotFoundError`, or `UserError` with the mend: no such bucket, refused, not reached."""

    def __init__(self, url: str, *, _known: tuple[Any, str] | None = None, _info: Any = None) -> None:
        head, _, self._query = url.partition("?")
        self._head = head.rstrip("/")
        self._files, self._path = _known or _file_system(url)
        self._info = _info

    def __str__(self) -> str:
        return self._head + (f"?{self._query}" if self._query else "")

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and str(self) == str(other)

    def __lt__(self, other: "Remote") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[type["Remote"], tuple[str]]:
        return Remote, (str(self),)

    # ---- names

    @property
    def name(self) -> str:
        return PurePosixPath(self._path).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self._path).suffix

    @property
    def parent(self) -> "Remote":
        return self._at(self._head.rpartition("/")[0], self._path.rpartition("/")[0])

    @property
    def scheme(self) -> str:
        """s3, gs or abfs."""
        return SCHEMES[self._head.partition(":")[0]]

    def __truediv__(self, name: str | PurePosixPath) -> "Remote":
        below = str(name).strip("/")
        return self._at(f"{self._head}/{below}", f"{self._path}/{below}") if below not in ("", ".") else self

    def absolute(self) -> "Remote":
        return self

    def resolve(self) -> "Remote":
        return self

    def relative_to(self, folder: "Remote") -> PurePosixPath:
        return PurePosixPath(self._path).relative_to(folder._path)

    def _at(self, head: str, path: str, info: Any = None) -> "Remote":
        return Remote(f"{head}?{self._query}" if self._query else head, _known=(self._files, path), _info=info)

    # ---- what is there

    def exists(self) -> bool:
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        return self._kind() == "File"

    def is_dir(self) -> bool:
        return self._kind() == "Directory"

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> Stat:
        info = self._ask()
        if info.type.name != "File":
            raise FileNotFoundError(errno.ENOENT, "no such file", str(self))
        return Stat(info.size, info.mtime.timestamp() if info.mtime is not None else 0.0)

    def iterdir(self) -> Iterator["Remote"]:
        """What lies right in this folder; nothing where there is no such folder."""
        for info in self._list(recursive=False):
            yield self._at(f"{self._head}/{info.base_name}", info.path.rstrip("/"), info)

    def glob(self, pattern: str) -> Iterator["Remote"]:
        """What lies right in this folder and is called like `pattern`."""
        return (place for place in self.iterdir() if fnmatchcase(place.name, pattern))

    def files(self) -> Iterator[str]:
        """Paths below this folder of all files at any depth: one request a thousand."""
        at = len(self._path) + 1
        return (info.path[at:] for info in self._list(recursive=True) if info.type.name == "File")

    def _kind(self) -> str:
        return str((self._info or self._ask()).type.name)

    def _ask(self) -> Any:
        with _fixing(self):
            info = self._files.get_file_info(self._path)
            bucket = self._path.partition("/")[0]
            if info.type.name == "NotFound" and self._files.get_file_info(bucket).type.name == "NotFound":
                raise UserError(f"there is no bucket {bucket} for {self}; check its name, the endpoint and the region")
        return info

    def _list(self, *, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector

        with _fixing(self):
            selector = FileSelector(self._path, recursive=recursive, allow_not_found=True)
            return list(self._files.get_file_info(selector))

    # ---- reading

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The file for reading anywhere in it, `PIECE` bytes a request."""
        assert mode == "rb"
        with _fixing(self):
            return io.BufferedReader(_Raw(self._files.open_input_file(self._path), self), PIECE)

    def read_bytes(self) -> bytes:
        with _fixing(self), self._files.open_input_file(self._path) as file:
            return bytes(file.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    # ---- writing

    def write_bytes(self, data: bytes | memoryview) -> None:
        """The whole file at once: before this returns nothing of it is seen (an Azure file is seen empty)."""
        with _fixing(self), self._files.open_output_stream(self._path, compression=None) as file:
            file.write(data)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there with the first file in it."""

    def unlink(self, *, missing_ok: bool = False) -> None:
        with _fixing(self):
            try:
                self._files.delete_file(self._path)
            except FileNotFoundError:
                if not missing_ok:
                    raise
            except OSError:  # pyarrow puts a marker for the folder afterwards, which not every server takes
                if self._ask().type.name == "File":
                    raise

    def _remove_tree(self) -> None:
        with _fixing(self):
            try:
                self._files.delete_dir(self._path)
            except FileNotFoundError:
                pass
            except OSError:  # the marker again
                if any(self.files()):
                    raise


Place = Path | Remote
"""Where a dataset or a store lies."""


class _Raw(io.RawIOBase):
    """A pyarrow file as `io` wants it."""

    def __init__(self, file: Any, place: Remote) -> None:
        self._file, self._place = file, place
        self.name = str(place)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with _fixing(self._place):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def place(name: str | os.PathLike[str] | Place) -> Place:
    """Where `name` points: a `Path`, or a `Remote` for a URL. Raises `UserError` for a scheme that nothing reads, a URL that
    carries a secret, and options that its file system does not have."""
    if isinstance(name, Remote):
        return name
    text = os.fspath(name)
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", text, re.DOTALL)  # a Path has one slash left of two
    if match is None or not (text.startswith(f"{match[1]}://") or match[1].lower() in SCHEMES):
        return Path(text)
    if match[1].lower() not in SCHEMES:
        raise UserError(f"{match[1]}:// is no file system that is read here; known: a local path, {_known_schemes()}")
    return Remote(f"{match[1].lower()}://{match[2]}")


@contextmanager
def local(file: Place) -> Iterator[Path]:
    """The file as one of this machine, for readers that know no other: itself, or a copy that is removed afterwards."""
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="cxr-ray-") as folder:
        here = Path(folder) / file.name
        with file.open() as remote, here.open("wb") as copy:
            shutil.copyfileobj(remote, copy, PIECE)
        yield here


def present(root: Place, files: Iterable[str]) -> list[bool]:
    """Whether each of `files`, paths below `root`, is there; of a remote root by one listing."""
    if isinstance(root, Remote):
        there = set(root.files())
        return [file in there for file in files]
    return [os.path.isfile(os.path.join(root, file)) for file in files]  # noqa: PTH113, PTH118 (a million of them)


def ahead(work: Any, items: Sequence[Any], *, at_once: int = AT_ONCE) -> Iterator[Any]:
    """`work(item)` of each item in order, with `at_once` of them under way on threads; what one raises is raised in its turn."""
    with ThreadPoolExecutor(at_once) as pool:
        rest = iter(items)
        waiting = [pool.submit(work, item) for item in islice(rest, at_once)]
        try:
            while waiting:
                first = waiting.pop(0)
                yield first.result()
                waiting += [pool.submit(work, item) for item in islice(rest, 1)]
        finally:
            for future in waiting:
                future.cancel()


def remove_tree(folder: Place) -> None:
    """Remove `folder` and all in it; nothing where it is not there."""
    if isinstance(folder, Remote):
        folder._remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


# ---- file systems


@lru_cache(maxsize=64)
def _file_system(url: str) -> tuple[Any, str]:
    """pyarrow's file system for `url`, and the path in it."""
    from pyarrow.fs import FileSystem

    parts = urlsplit(url)
    scheme = SCHEMES[parts.scheme]
    if not parts.netloc:
        raise UserError(f"{url} names no bucket; write {parts.scheme}://BUCKET/FOLDER")
    if parts.password or (scheme == "s3" and parts.username):
        bare = url.replace(f"{parts.netloc.rpartition('@')[0]}@", "")
        raise UserError(f"a URL is written to configs and logs and must hold no secret: {bare}; {CREDENTIALS[scheme]}")
    try:
        files, path = FileSystem.from_uri(quote(_completed(url) if scheme == "s3" else url, safe="%/:?=&@+,;~!$'()*[]"))
    except (ValueError, NotImplementedError) as error:  # pyarrow's errors are of these
        raise UserError(f"cannot use {url}: {_plain(error)}") from None
    except OSError as error:
        raise _told(error, url, scheme) from None
    return files, path.rstrip("/")


def _completed(url: str) -> str:
    """An s3 URL with what the environment says of the endpoint and the region, as the AWS tools read it.

    Without either, pyarrow asks AWS itself for the bucket's region."""
    head, _, query = url.partition("?")
    options = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in options:
        parts = urlsplit(endpoint if "//" in endpoint else f"https://{endpoint}")
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if "region" not in options and (region or "endpoint_override" in options):
        options["region"] = region or "us-east-1"
    return f"{head}?{urlencode(options)}" if options else head


@contextmanager
def _fixing(place: Remote) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", str(place)) from None
    except OSError as error:
        raise _told(error, str(place), place.scheme) from None


REFUSED = r"ACCESS_DENIED|AccessDenied|ACCESS KEY|INVALID_ACCESS|InvalidAccessKey|SIGNATURE|Signature|TOKEN|Token|HTTP status 40[13]\b|Forbidden|Unauthorized|credential"
NO_BUCKET = r"NO_SUCH_BUCKET|NoSuchBucket|ContainerNotFound"
NOT_REACHED = r"NETWORK_CONNECTION|curlCode|[Cc]ouldn't connect|[Tt]imed? ?out|resolve host|Connection"


def _told(error: OSError, url: str, scheme: str) -> UserError:
    """The one line for what a server answered."""
    said = str(error)
    if re.search(NO_BUCKET, said):
        return UserError(f"there is no bucket for {url}; check its name, the endpoint and the region")
    if re.search(REFUSED, said):
        return UserError(f"access to {url} is refused; {CREDENTIALS[scheme]}, of someone who may use it")
    if re.search(NOT_REACHED, said):
        return UserError(f"cannot reach the server of {url}; check the endpoint and the network ({_plain(error)})")
    return UserError(f"cannot use {url}: {_plain(error)}")


def _plain(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _known_schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in CREDENTIALS)
