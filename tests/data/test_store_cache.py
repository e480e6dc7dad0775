"""A remote store is read through one copy per node: complete, checked, made once, and named by the manifest's digest."""

import errno
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from cxr_ray.data import store as stores
from cxr_ray.data import store_cache, store_format, store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.errors import UserError
from cxr_ray.storage.remote import RemotePath, to_path
from tests.data.small_store import ROWS, make, pixels


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("store") / "s").path


@pytest.fixture
def url(s3, local: Path, request: pytest.FixtureRequest) -> str:
    return s3.upload(local, f"copies/{request.node.name}")


def test_a_remote_store_equals_the_local_one(url: str, local: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    store = stores.open(url, verify="full", cache=str(tmp_path), log=lines.append)
    assert store.fingerprint == stores.open(local).fingerprint and store.origin == url
    assert store.path == tmp_path / store.fingerprint and store.name == to_path(url).name
    assert {p.name: p.read_bytes() for p in store.path.iterdir()} == {p.name: p.read_bytes() for p in local.iterdir()}
    np.testing.assert_array_equal(store.images(ROWS), pixels())
    assert len(lines) == 1 and lines[0].startswith(f"copying {url} to {store.path}: ")
    boxes, rejected = store.boxes(), store.rejected()
    assert boxes is not None and len(boxes) == 1 and rejected.empty

    before = {p: p.stat().st_mtime_ns for p in store.path.iterdir()}
    reopened = pickle.loads(pickle.dumps(store))  # as in a worker: the same copy, found by its origin
    assert reopened.path == store.path and reopened.origin == url
    stores.open(url, cache=str(tmp_path), log=lines.append)
    assert len(lines) == 1 and {p: p.stat().st_mtime_ns for p in store.path.iterdir()} == before


def test_the_default_cache_is_the_user_s(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = stores.open(url)
    assert store.path == tmp_path / "cxr_ray" / "stores" / store.fingerprint


def test_a_temporary_copy_is_removed_with_its_process(url: str) -> None:
    code = f"from cxr_ray.data import store; one, two = (store.open({url!r}, cache='none') for _ in range(2)); print(one.path); assert one.path == two.path; print(len(one.images(one.index['row'])))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    path, rows = done.stdout.split()
    assert int(rows) == len(ROWS) and not Path(path).parent.exists()


def open_and_read(job: tuple[str, str]) -> tuple[list[str], int]:
    lines: list[str] = []
    store = stores.open(job[0], cache=job[1], log=lines.append)
    return lines, len(store.images(ROWS))


def test_processes_that_start_at_once_copy_once(url: str, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(open_and_read, [(url, str(tmp_path))] * 3)
    assert sorted(len(lines) for lines, _ in found) == [0, 0, 1] and {rows for _, rows in found} == {len(ROWS)}


def test_an_incomplete_copy_is_found_and_completed(url: str, tmp_path: Path) -> None:
    store = stores.open(url, cache=str(tmp_path))
    shard, other = (store.path / f"images-0000{i}-of-00006.arrow" for i in (1, 2))
    (store.path / "manifest.json").unlink()  # it was never written
    shard.unlink()
    other.write_bytes(other.read_bytes()[:-1])
    (store.path / ".images-00003-of-00006.arrow.abc.tmp").write_bytes(b"half")
    written = (store.path / "index.parquet").stat().st_mtime_ns
    lines: list[str] = []
    completed = stores.open(url, verify="full", cache=str(tmp_path), log=lines.append)
    assert lines[0].endswith("the rest of 9 files")
    assert (store.path / "index.parquet").stat().st_mtime_ns == written
    assert store_format.verify(completed.path) == []
    shard.unlink()  # lost after the copy was complete
    assert store_format.verify(stores.open(url, cache=str(tmp_path)).path) == []


def test_damage_of_the_copy_is_not_reported_as_damage_of_the_store(url: str, tmp_path: Path) -> None:
    store = stores.open(url, cache=str(tmp_path))
    shard = store.path / "images-00001-of-00006.arrow"
    body = bytearray(shard.read_bytes())
    body[len(body) // 2] ^= 4
    shard.write_bytes(body)
    with pytest.raises(UserError, match=r"it is a copy of .*: delete it, and it is copied again"):
        stores.open(url, verify="full", cache=str(tmp_path))
    assert store_format.verify(url) == []  # the remote store itself is read in place


def test_a_changed_remote_store_gets_another_copy(url: str, local: Path, tmp_path: Path) -> None:
    first = stores.open(url, cache=str(tmp_path / "cache"))
    other = store_writer.write(
        tmp_path / "other", pixels()[:5], first.index[["Edema"]][:5], DatasetInfo(labels=("Edema",), task="binary")
    )
    for file in other.path.iterdir():
        (to_path(url) / file.name).write_bytes(file.read_bytes())
    second = stores.open(url, cache=str(tmp_path / "cache"))
    assert second.path != first.path and len(second) == 5 and len(first.images(ROWS)) == len(ROWS)
    with pytest.raises(UserError, match=r"is not the store that was opened before"):
        pickle.loads(pickle.dumps(first))


def test_damage_in_the_remote_store_is_found_and_never_becomes_a_copy(url: str, tmp_path: Path) -> None:
    name = "images-00002-of-00006.arrow"
    shard = to_path(url) / name
    original = shard.read_bytes()
    body = bytearray(original)
    body[-9] ^= 1
    shard.write_bytes(bytes(body))
    assert store_format.verify(url) == [f"{name}: bytes changed, its checksum differs"]
    with pytest.raises(UserError, match=rf"{name}\?.* does not match the store's manifest; `cxr-ray verify"):
        stores.open(url, cache=str(tmp_path))
    shard.unlink()
    (to_path(url) / "notes.txt").write_bytes(b"x")
    assert store_format.verify(url) == [f"{name}: missing", "notes.txt: extra, the manifest does not list it"]
    with pytest.raises(UserError, match=rf"{name}\?.* is missing"):
        stores.open(url, cache=str(tmp_path))
    assert not list(tmp_path.glob(f"*/{name}")) and not list(tmp_path.glob("*/manifest.json"))
    shard.write_bytes(original)
    assert len(stores.open(url, cache=str(tmp_path))) == len(ROWS)
    manifest = to_path(url) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows": 100', b'"rows": 101'))
    with pytest.raises(UserError, match=r"is damaged: manifest.json: bytes changed"):
        stores.open(url, cache=str(tmp_path))


def test_a_manifest_that_names_files_elsewhere_is_refused(url: str, tmp_path: Path) -> None:
    manifest = to_path(url) / "manifest.json"
    body = json.loads(manifest.read_bytes())
    body["files"]["../../escape"] = body["files"]["index.parquet"]
    del body["digest"]
    manifest.write_bytes(store_format.canonical_json({**body, "digest": store_format.fingerprint_of(body)}))
    with pytest.raises(UserError, match=r"is damaged"):
        stores.open(url, cache=str(tmp_path))


def test_a_full_disk_is_a_one_line_error_and_leaves_no_file(url: str, tmp_path: Path, monkeypatch) -> None:
    there = to_path(url)
    assert isinstance(there, RemotePath)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
        with pytest.raises(
            UserError, match=r"no space for a copy of .* MiB free; free some, or name another folder with"
        ):
            stores.open(url, cache=str(tmp_path))

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_cache.shutil, "copyfileobj", full)
        with pytest.raises(UserError, match=r"no space left to write .*"):
            stores.open(url, cache=str(tmp_path))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"] == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot make the copy .* \(Not a directory\); name another folder"):
        stores.open(url, cache=str(tmp_path / "file"))


def test_an_error_for_no_space_names_both_sizes_in_mib(url: str, tmp_path: Path, monkeypatch) -> None:
    there = to_path(url)
    assert isinstance(there, RemotePath)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 5 * 2**20))
    files = {name: store_format.FileEntry(bytes=size, sha256="") for name, size in (("a", 2**30), ("b", 2**31))}
    with pytest.raises(UserError, match=r"it needs 3,072 MiB, .* has 5 MiB free"):
        store_cache.copy_store(there, tmp_path / "copy", files, ("manifest.json", b""))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3 * 2**30))  # just enough
    with pytest.raises(UserError, match="is missing"):
        store_cache.copy_store(there, tmp_path / "copy", files, ("manifest.json", b""))


def test_urls_that_are_not_a_store_are_refused_with_the_cause(s3, url: str, local: Path) -> None:
    with pytest.raises(UserError, match=r"no store at s3://bucket/copies/nowhere.*: there is no such folder"):
        stores.open(s3.url("copies/nowhere"))
    with pytest.raises(UserError, match=r"there is no bucket nobucket"):
        stores.open(s3.url("x", bucket="nobucket"))
    (to_path(url) / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"unfinished ingest"):
        stores.open(url)
    with pytest.raises(UserError, match=r"unfinished ingest"):
        store_format.verify(url)
