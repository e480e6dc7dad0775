"""Remote paths: a remote folder behaves like a local one, and every failure of a server is one line that says how to fix it."""

import pickle
import threading
import time
from pathlib import Path, PurePosixPath

import pytest

from cxr_ray.errors import UserError
from cxr_ray.storage import remote
from cxr_ray.storage.remote import RemotePath, to_local_path, to_path

TREE = {"a.csv": b"1", "b.txt": b"22", "one/x.png": b"png", "one/two/y.png": b"more", "three/z.PNG": bytes(3 * 2**20)}


def write_tree(root: Path) -> Path:
    for name, body in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    return root


@pytest.fixture
def both(s3, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, RemotePath]:
    here = write_tree(tmp_path / "tree")
    there = to_path(s3.upload(here, f"paths/{request.node.name}"))
    assert isinstance(there, RemotePath)
    return here, there


# ---- names


@pytest.mark.parametrize("name", ["x", "/a/b", "./a", "C:/x", "a:b", "s3"])
def test_a_path_stays_a_path(name: str) -> None:
    assert to_path(name) == Path(name) and to_path(Path(name)) == Path(name)


def test_a_url_keeps_its_options_in_every_derived_path() -> None:
    root = to_path("s3://bucket/data/?endpoint_override=localhost:9&scheme=http")
    assert isinstance(root, RemotePath) and (root.name, root.scheme) == ("data", "s3")
    child = root / "one" / "x.png"
    assert str(child) == "s3://bucket/data/one/x.png?endpoint_override=localhost:9&scheme=http"
    assert (child.name, child.suffix, child.parent.parent) == ("x.png", ".png", root)
    assert child.relative_to(root) == PurePosixPath("one/x.png")
    assert root / "" == root == to_path(str(root)) and root.absolute() is root.resolve() is root
    copy = pickle.loads(pickle.dumps(child))
    assert copy == child and hash(copy) == hash(child) and copy.path == child.path
    assert to_path(Path(str(root))) == root  # a Path reduces two slashes to one


@pytest.mark.parametrize("name", ["s3://bucket/run", Path("s3://bucket/run"), Path("GS://bucket/run"), "http://x/y"])
def test_a_url_is_no_local_path(name: str | Path) -> None:
    with pytest.raises(UserError, match=r"a run must be in a local folder, not at \w+://\w+/\w+; "):
        to_local_path(name, "run")
    assert to_local_path("C:/x", "run") == Path("C:/x")


@pytest.mark.parametrize("name", ["CheXpert-v1.0 batch 2 (train 1)", "Röntgen", "a+b", "100%20"])
def test_folder_names_may_contain_any_character(name: str) -> None:
    root = to_path(f"s3://bucket/{name}/x?endpoint_override=localhost:9&scheme=http")
    assert isinstance(root, RemotePath) and root.path == f"bucket/{name.replace('%20', ' ')}/x" and name in str(root)
    assert to_path(str(root / "Viral Pneumonia")).path == (root / "Viral Pneumonia").path  # type: ignore[union-attr]


def test_other_schemes_use_the_file_systems_of_pyarrow() -> None:
    blob, azure = to_path("gs://anonymous@bucket/x/y"), to_path("abfs://container@account.dfs.core.windows.net/x/y")
    assert isinstance(blob, RemotePath) and isinstance(azure, RemotePath)
    assert (blob.scheme, blob.path, azure.scheme, azure.path) == ("gs", "bucket/x/y", "abfs", "container/x/y")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://x/y", "http:// is not supported; known: a local path, s3://, gs://, abfs://"),
        ("s3://", "s3:// names no bucket; write s3://BUCKET/FOLDER"),
        (
            "s3://AKIA:secret@bucket/x",
            "a URL is written to configs and logs and must not contain a secret: s3://bucket/x; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        ),
        (
            "s3://bucket/x?region=here&secret_key=secret@",
            "a URL is written to configs and logs and must not contain a secret: s3://bucket/x?region=here&secret_key=***; set",
        ),
        ("s3://bucket/x?regin=here", "cannot use s3://bucket/x?regin=here: "),
    ],
)
def test_an_invalid_url_raises_a_user_error(url: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        to_path(url)
    assert str(caught.value).startswith(message) and "secret@" not in str(caught.value)


def test_endpoint_and_region_come_from_the_environment_as_for_the_aws_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote.with_aws_environment("s3://b/x") == "s3://b/x"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000")
    assert (
        remote.with_aws_environment("s3://b/x")
        == "s3://b/x?endpoint_override=localhost%3A9000&scheme=http&region=us-east-1"
    )
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert remote.with_aws_environment("s3://b/x?endpoint_override=other").endswith(
        "?endpoint_override=other&region=eu-west-1"
    )
    assert remote.with_aws_environment("s3://b/x?region=here&endpoint_override=other").count("region=here") == 1


# ---- querying


def test_a_remote_folder_behaves_like_a_local_one(both: tuple[Path, RemotePath]) -> None:
    here, there = both
    for name in [*TREE, "one", "one/two", "", "nothing", "one/nothing.png", "a.csv/x"]:
        for method in ("exists", "is_file", "is_dir", "is_symlink"):
            assert getattr(there / name, method)() == getattr(here / name, method)(), (name, method)
    for folder in ("", "one", "three"):
        expected = {path.name: path.is_dir() for path in (here / folder).iterdir()}
        assert {path.name: path.is_dir() for path in (there / folder).iterdir()} == expected
    assert list((there / "nothing").iterdir()) == []
    assert [path.name for path in there.glob("*.csv")] == ["a.csv"]
    assert sorted(there.files()) == sorted(TREE) and sorted((there / "one").files()) == ["two/y.png", "x.png"]
    for root in both:
        assert remote.files_exist(root, ["a.csv", "nothing", "one/two/y.png", "one"]) == [True, False, True, False]


def test_a_remote_file_reads_like_a_local_one(both: tuple[Path, RemotePath]) -> None:
    here, there = both
    for name, body in TREE.items():
        assert (there / name).read_bytes() == body and (there / name).stat().st_size == len(body)
        with remote.local_copy(there / name) as copy, remote.local_copy(here / name) as itself:
            assert copy.read_bytes() == body and copy.name == itself.name and itself == here / name
        assert not copy.exists()
        with (there / name).open() as file:
            assert (file.read(2), file.seek(0), file.read()) == (body[:2], 0, body)
    assert abs((there / "a.csv").stat().st_mtime - time.time()) < 120
    for request in (lambda p: p.read_bytes(), lambda p: p.stat(), lambda p: p.open(), lambda p: p.unlink()):
        with pytest.raises(FileNotFoundError):
            request(there / "nothing")


def test_writing_and_removing(both: tuple[Path, RemotePath]) -> None:
    _, there = both
    file = there / "new" / "deep" / "file.json"
    file.write_bytes(b"one")
    file.write_bytes(b"two")
    assert file.read_text() == "two" and (there / "new").is_dir()
    remote.remove_tree(there / "one")
    assert not (there / "one").exists() and (there / "a.csv").exists()
    file.unlink()
    file.unlink(missing_ok=True)
    remote.remove_tree(there / "never")
    assert sorted(there.files()) == ["a.csv", "b.txt", "three/z.PNG"]


# ---- failures of a server


def test_a_refused_request_is_one_line_that_says_how_to_fix_it(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(url: str) -> str:
        remote.file_system.cache_clear()
        with pytest.raises(UserError) as caught:
            (to_path(url) / "x").exists()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
        return str(caught.value)

    try:
        assert message(s3.url("data", bucket="nobucket")).startswith(
            "there is no bucket nobucket for s3://nobucket/data/x"
        )
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        fix = "is denied; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, of a user with access"
        assert message(s3.url("data")).endswith(fix)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        assert message(s3.url("data")).endswith(fix)
    finally:
        remote.file_system.cache_clear()


def test_an_unreachable_server() -> None:
    url = "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http"
    with pytest.raises(
        UserError, match=r"^cannot reach the server of s3://bucket/x\?.*check the endpoint and the network"
    ):
        to_path(url).exists()


# ---- many at once


def test_map_threaded_keeps_the_order_and_raises_at_the_item_that_failed() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002 * (item % 3))
        with lock:
            running -= 1
        if item == 30:
            raise ValueError("thirty")
        return item * item

    seen = []
    with pytest.raises(ValueError, match="thirty"):
        for value in remote.map_threaded(work, range(50), threads=4):
            seen.append(value)  # noqa: PERF402 (the loop ends in an error)
    assert seen == [i * i for i in range(30)] and 1 < most <= 4
    assert list(remote.map_threaded(work, [])) == []
