"""Paths that may be remote: a `pathlib.Path`, or a `RemotePath` below s3://, gs:// or abfs:// through pyarrow's file systems.

A `RemotePath` implements what datasets, ingest and stores use of a `Path`, so that each of them is written once. Credentials come
from the environment and never from a URL, which configs and logs repeat; options such as ?endpoint_override=HOST:PORT&
scheme=http are part of the URL. An object becomes visible, complete, when its upload is closed, so writing needs no temporary
name. There are no locks, no links and no empty folders.
"""

import errno
import io
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache, total_ordering
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from cxr_ray.errors import UserError, has_secret
from cxr_ray.storage.names import Spellings, readable

Item = TypeVar("Item")
Result = TypeVar("Result")

CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or log in with gcloud auth application-default login",
    "abfs": "set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or log in with az login",
}
"""Where each kind of file system reads its credentials from."""
SCHEMES = {"s3": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfs"}
UNSUPPORTED = ("http", "https", "az", "azure", "wasb", "wasbs", "hdfs", "ftp", "sftp", "file", "hf", "dbfs")
"""Known to be no folders' names, so that such a URL is refused also where its two slashes were reduced to one."""
CHUNK_BYTES = 2**20
"""Bytes per read of a remote file: a request takes tens of milliseconds, whatever its size."""
MAX_REQUESTS = 16
"""Requests in flight when many small files are read or copied."""


class Stat(NamedTuple):
    """The fields of `os.stat_result` that a remote file has."""

    st_size: int
    st_mtime: float


@total_ordering
class RemotePath:
    """A file or folder of an object store, with the part of the `Path` interface that is used here.

    Requests raise `FileNotFoundError`, or `UserError` that says how to fix it: no such bucket, access denied, server not
    reached."""

    def __init__(self, url: str, *, _resolved: tuple[Any, str] | None = None, _info: Any = None) -> None:
        head, _, self._query = url.partition("?")
        self._head = head.rstrip("/")
        self._files, self.path = _resolved or file_system(url)  # path: BUCKET/FOLDER/FILE, decoded
        self._info = _info

    def __str__(self) -> str:
        return self._head + (f"?{self._query}" if self._query else "")

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __lt__(self, other: "RemotePath") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[type["RemotePath"], tuple[str]]:
        return RemotePath, (str(self),)

    # ---- names

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> "RemotePath":
        return self._at(self._head.rpartition("/")[0], self.path.rpartition("/")[0])

    @property
    def scheme(self) -> str:
        """s3, gs or abfs."""
        return SCHEMES[self._head.partition(":")[0]]

    def __truediv__(self, name: str | PurePosixPath) -> "RemotePath":
        below = str(name).strip("/")
        return self._at(f"{self._head}/{below}", f"{self.path}/{below}") if below not in ("", ".") else self

    def absolute(self) -> "RemotePath":
        return self

    def resolve(self) -> "RemotePath":
        return self

    def relative_to(self, folder: "RemotePath") -> PurePosixPath:
        return PurePosixPath(self.path).relative_to(folder.path)

    def _at(self, head: str, path: str, info: Any = None) -> "RemotePath":
        return RemotePath(f"{head}?{self._query}" if self._query else head, _resolved=(self._files, path), _info=info)

    # ---- querying

    def exists(self) -> bool:
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        return self._kind() == "File"

    def is_dir(self) -> bool:
        return self._kind() == "Directory"

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> Stat:
        info = self._query_info()
        if info.type.name != "File":
            raise FileNotFoundError(errno.ENOENT, "no such file", str(self))
        return Stat(info.size, info.mtime.timestamp() if info.mtime is not None else 0.0)

    def iterdir(self) -> Iterator["RemotePath"]:
        """The direct children of this folder; nothing if there is no such folder."""
        for info in self._list(recursive=False):
            yield self._at(f"{self._head}/{info.base_name}", info.path.rstrip("/"), info)

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """The direct children of this folder whose names match `pattern`."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def files(self) -> Iterator[str]:
        """Paths below this folder of all files at any depth: one request per thousand."""
        prefix = len(self.path) + 1
        return (info.path[prefix:] for info in self._list(recursive=True) if info.type.name == "File")

    def _kind(self) -> str:
        return str((self._info or self._query_info()).type.name)

    def _query_info(self) -> Any:
        with _server_errors(self):
            info = self._files.get_file_info(self.path)
            bucket = self.path.partition("/")[0]
            if info.type.name == "NotFound" and self._files.get_file_info(bucket).type.name == "NotFound":
                raise UserError(f"there is no bucket {bucket} for {self}; check its name, the endpoint and the region")
        return info

    def _list(self, *, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector

        with _server_errors(self):
            selector = FileSelector(self.path, recursive=recursive, allow_not_found=True)
            return list(self._files.get_file_info(selector))

    # ---- reading

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The file for reading, seekable, `CHUNK_BYTES` per request."""
        assert mode == "rb"
        with _server_errors(self):
            return io.BufferedReader(_Raw(self._files.open_input_file(self.path), self), CHUNK_BYTES)

    def read_bytes(self) -> bytes:
        with _server_errors(self), self._files.open_input_file(self.path) as file:
            return bytes(file.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    # ---- writing

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Write the file in one upload: until this returns, others do not see it (an Azure file is seen empty)."""
        with _server_errors(self), self._files.open_output_stream(self.path, compression=None) as file:
            file.write(data)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder exists once a file is in it."""

    def unlink(self, *, missing_ok: bool = False) -> None:
        with _server_errors(self):
            try:
                self._files.delete_file(self.path)
            except FileNotFoundError:
                if not missing_ok:
                    raise
            except OSError:  # pyarrow writes a marker for the folder afterwards, which not every server accepts
                if self._query_info().type.name == "File":
                    raise

    def _remove_tree(self) -> None:
        with _server_errors(self):
            try:
                self._files.delete_dir(self.path)
            except FileNotFoundError:
                pass
            except OSError:  # the marker again
                if any(self.files()):
                    raise


AnyPath = Path | RemotePath
"""The path of a dataset or a store."""


class _Raw(io.RawIOBase):
    """A pyarrow file with the interface of `io.RawIOBase`."""

    def __init__(self, file: Any, path: RemotePath) -> None:
        self._file, self._path = file, path
        self.name = str(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with _server_errors(self._path):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def to_path(name: str | os.PathLike[str] | AnyPath) -> AnyPath:
    """A `Path`, or a `RemotePath` for a URL. Raises `UserError` for an unsupported scheme, a URL that contains a secret, options that
    its file system does not have, and a path that is not UTF-8, which no file of a run could name."""
    if isinstance(name, RemotePath):
        return name
    if not isinstance(name, str | os.PathLike):
        raise UserError(f"expected a path or a URL, got {name!r}")
    text = os.fspath(name)
    if readable(text) != text:
        raise UserError(f"the path {readable(text)} has bytes that are not UTF-8 (%XX); rename that file or folder")
    match = _url(text)
    if match is None:
        return Path(text)
    if match[1].lower() not in SCHEMES:
        raise UserError(f"{match[1]}:// is not supported; known: a local path, {_known_schemes()}")
    return RemotePath(f"{match[1].lower()}://{match[2]}")


def _url(text: str) -> re.Match[str] | None:
    """Scheme and rest of a URL, also of one that was a `Path`, which reduces two slashes to one."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", text, re.DOTALL)
    return (
        match if match and (text.startswith(f"{match[1]}://") or match[1].lower() in (*SCHEMES, *UNSUPPORTED)) else None
    )


def to_local_path(name: str | os.PathLike[str], kind: str) -> Path:
    """The local path of a `kind` of thing that is only read and written locally, such as a run. Raises `UserError` for a URL and for what
    is no path."""
    if not isinstance(name, str | os.PathLike):
        raise UserError(f"a {kind} is given by its path, got {name!r}")
    if match := _url(os.fspath(name)):
        raise UserError(
            f"a {kind} must be in a local folder, not at {match[1]}://{match[2]}; give a local path, or copy it to this machine first"
        )
    return Path(name)


@contextmanager
def local_copy(file: AnyPath) -> Iterator[Path]:
    """A local path of `file`, for readers that need one: itself, or a copy that is removed afterwards."""
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="cxr-ray-") as folder:
        target = Path(folder) / file.name
        with file.open() as remote, target.open("wb") as copy:
            shutil.copyfileobj(remote, copy, CHUNK_BYTES)
        yield target


def files_exist(root: AnyPath, files: Iterable[str]) -> list[bool]:
    """Whether each of `files`, paths below `root`, exists, if need be under another spelling (`names.Spellings`); one listing for a
    remote root, where only the exact name counts."""
    if isinstance(root, RemotePath):
        existing = set(root.files())
        return [file in existing for file in files]
    spellings = Spellings(root)
    return [
        os.path.isfile(os.path.join(root, file))  # noqa: PTH113, PTH118 (a million of them)
        or ((found := spellings.find(file)) is not None and (root / found).is_file())
        for file in files
    ]


def map_threaded(
    function: Callable[[Item], Result], items: Sequence[Item], *, threads: int = MAX_REQUESTS, ahead: int = 1
) -> Generator[Result, None, None]:
    """`function(item)` of each item in order, computed by `threads` threads, at most `ahead` x `threads` items before their turn; an error
    is raised at its item's turn."""
    with ThreadPoolExecutor(threads) as pool:
        rest = iter(items)
        pending = deque(pool.submit(function, item) for item in islice(rest, ahead * threads))
        try:
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(rest, 1))
        finally:
            for future in pending:
                future.cancel()


def remove_tree(folder: AnyPath) -> None:
    """Remove `folder` and its content; does nothing if it does not exist."""
    if isinstance(folder, RemotePath):
        folder._remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


# ---- file systems


@lru_cache(maxsize=64)
def file_system(url: str) -> tuple[Any, str]:
    """pyarrow's file system for `url`, and the path in it (BUCKET/FOLDER)."""
    from pyarrow.fs import FileSystem

    parts = urlsplit(url)
    scheme = SCHEMES[parts.scheme]
    if not parts.netloc:
        raise UserError(f"{url} names no bucket; write {parts.scheme}://BUCKET/FOLDER")
    if (
        parts.password
        or (scheme == "s3" and parts.username)
        or has_secret(f"{scheme}://{parts.hostname}?{parts.query}")
    ):
        bare = url.replace(f"{parts.netloc.rpartition('@')[0]}@", "")
        raise UserError(
            f"a URL is written to configs and logs and must not contain a secret: {bare}; {CREDENTIALS[scheme]}"
        )
    try:
        files, path = FileSystem.from_uri(
            quote(with_aws_environment(url) if scheme == "s3" else url, safe="%/:?=&@+,;~!$'()*[]")
        )
    except (ValueError, NotImplementedError) as error:  # the errors of pyarrow
        raise UserError(f"cannot use {url}: {_shortened(error)}") from None
    except OSError as error:
        raise _server_error(error, url, scheme) from None
    return files, path.rstrip("/")


def with_aws_environment(url: str) -> str:
    """An s3 URL with the endpoint and the region of the environment, read as the AWS tools do.

    Without either, pyarrow asks AWS for the region of the bucket."""
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
def _server_errors(path: RemotePath) -> Iterator[None]:
    """Raise errors of the server as `FileNotFoundError` or `UserError`."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None
    except OSError as error:
        raise _server_error(error, str(path), path.scheme) from None


ACCESS_DENIED_PATTERN = r"ACCESS_DENIED|AccessDenied|ACCESS KEY|INVALID_ACCESS|InvalidAccessKey|SIGNATURE|Signature|TOKEN|Token|HTTP status 40[13]\b|Forbidden|Unauthorized|credential"
NO_BUCKET_PATTERN = r"NO_SUCH_BUCKET|NoSuchBucket|ContainerNotFound"
NOT_REACHED_PATTERN = r"NETWORK_CONNECTION|curlCode|[Cc]ouldn't connect|[Tt]imed? ?out|resolve host|Connection"


def _server_error(error: OSError, url: str, scheme: str) -> UserError:
    """A one-line error for the answer of a server."""
    answer = str(error)
    if re.search(NO_BUCKET_PATTERN, answer):
        return UserError(f"there is no bucket for {url}; check its name, the endpoint and the region")
    if re.search(ACCESS_DENIED_PATTERN, answer):
        return UserError(f"access to {url} is denied; {CREDENTIALS[scheme]}, of a user with access")
    if re.search(NOT_REACHED_PATTERN, answer):
        return UserError(f"cannot reach the server of {url}; check the endpoint and the network ({_shortened(error)})")
    return UserError(f"cannot use {url}: {_shortened(error)}")


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _known_schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in CREDENTIALS)
