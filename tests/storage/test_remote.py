"""Places: a remote folder answers as a local one does, and every way that a server can refuse is one line with the mend."""

import pickle
import threading
import time
from pathlib import Path, PurePosixPath

import pytest

from cxr_ray.errors import UserError
from cxr_ray.storage import remote
from cxr_ray.storage.remote import Remote, place

TREE = {"a.csv": b"1", "b.txt": b"22", "one/x.png": b"png", "one/two/y.png": b"more", "three/z.PNG": bytes(3 * 2**20)}


def planted(root: Path) -> Path:
    for name, body in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    return root


@pytest.fixture
def both(s3, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Remote]:
    here = planted(tmp_path / "tree")
    there = place(s3.upload(here, f"places/{request.node.name}"))
    assert isinstance(there, Remote)
    return here, there


# ---- names


@pytest.mark.parametrize("name", ["x", "/a/b", "./a", "C:/x", "a:b", "s3"])
def test_a_path_stays_a_path(name: str) -> None:
    assert place(name) == Path(name) and place(Path(name)) == Path(name)


def test_a_url_keeps_its_options_wherever_one_goes() -> None:
    root = place("s3://bucket/data/?endpoint_override=localhost:9&scheme=http")
    assert isinstance(root, Remote) and (root.name, root.scheme) == ("data", "s3")
    child = root / "one" / "x.png"
    assert str(child) == "s3://bucket/data/one/x.png?endpoint_override=localhost:9&scheme=http"
    assert (child.name, child.suffix, child.parent.parent) == ("x.png", ".png", root)
    assert child.relative_to(root) == PurePosixPath("one/x.png")
    assert root / "" == root == place(str(root)) and root.absolute() is root.resolve() is root
    again = pickle.loads(pickle.dumps(child))
    assert again == child and hash(again) == hash(child) and again._path == child._path
    assert place(Path(str(root))) == root  # a Path leaves one slash of two


@pytest.mark.parametrize("name", ["CheXpert-v1.0 batch 2 (train 1)", "Röntgen", "a+b", "100%20"])
def test_folders_are_called_as_people_call_them(name: str) -> None:
    root = place(f"s3://bucket/{name}/x?endpoint_override=localhost:9&scheme=http")
    assert isinstance(root, Remote) and root._path == f"bucket/{name.replace('%20', ' ')}/x" and name in str(root)
    assert place(str(root / "Viral Pneumonia"))._path == (root / "Viral Pneumonia")._path  # type: ignore[union-attr]


def test_other_file_systems_are_pyarrow_s_too() -> None:
    blob, azure = place("gs://anonymous@bucket/x/y"), place("abfs://container@account.dfs.core.windows.net/x/y")
    assert isinstance(blob, Remote) and isinstance(azure, Remote)
    assert (blob.scheme, blob._path, azure.scheme, azure._path) == ("gs", "bucket/x/y", "abfs", "container/x/y")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://x/y", "http:// is no file system that is read here; known: a local path, s3://, gs://, abfs://"),
        ("s3://", "s3:// names no bucket; write s3://BUCKET/FOLDER"),
        (
            "s3://AKIA:secret@bucket/x",
            "a URL is written to configs and logs and must hold no secret: s3://bucket/x; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        ),
        ("s3://bucket/x?regin=here", "cannot use s3://bucket/x?regin=here: "),
    ],
)
def test_a_url_that_nothing_reads(url: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        place(url)
    assert str(caught.value).startswith(said) and "secret@" not in str(caught.value)


def test_the_environment_says_endpoint_and_region_as_for_aws_s_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote._completed("s3://b/x") == "s3://b/x"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000")
    assert remote._completed("s3://b/x") == "s3://b/x?endpoint_override=localhost%3A9000&scheme=http&region=us-east-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert remote._completed("s3://b/x?endpoint_override=other").endswith("?endpoint_override=other&region=eu-west-1")
    assert remote._completed("s3://b/x?region=here&endpoint_override=other").count("region=here") == 1


# ---- what is there


def test_a_remote_folder_answers_as_a_local_one(both: tuple[Path, Remote]) -> None:
    here, there = both
    for name in [*TREE, "one", "one/two", "", "nothing", "one/nothing.png", "a.csv/x"]:
        for ask in ("exists", "is_file", "is_dir", "is_symlink"):
            assert getattr(there / name, ask)() == getattr(here / name, ask)(), (name, ask)
    for folder in ("", "one", "three"):
        wanted = {path.name: path.is_dir() for path in (here / folder).iterdir()}
        assert {path.name: path.is_dir() for path in (there / folder).iterdir()} == wanted
    assert list((there / "nothing").iterdir()) == []
    assert [path.name for path in there.glob("*.csv")] == ["a.csv"]
    assert sorted(there.files()) == sorted(TREE) and sorted((there / "one").files()) == ["two/y.png", "x.png"]
    for root in both:
        assert remote.present(root, ["a.csv", "nothing", "one/two/y.png", "one"]) == [True, False, True, False]


def test_a_remote_file_reads_as_a_local_one(both: tuple[Path, Remote]) -> None:
    here, there = both
    for name, body in TREE.items():
        assert (there / name).read_bytes() == body and (there / name).stat().st_size == len(body)
        with remote.local(there / name) as copy, remote.local(here / name) as itself:
            assert copy.read_bytes() == body and copy.name == itself.name and itself == here / name
        assert not copy.exists()
        with (there / name).open() as file:
            assert (file.read(2), file.seek(0), file.read()) == (body[:2], 0, body)
    assert abs((there / "a.csv").stat().st_mtime - time.time()) < 120
    for ask in (lambda p: p.read_bytes(), lambda p: p.stat(), lambda p: p.open(), lambda p: p.unlink()):
        with pytest.raises(FileNotFoundError):
            ask(there / "nothing")


def test_writing_and_removing(both: tuple[Path, Remote]) -> None:
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


# ---- what a server refuses


def test_what_a_server_refuses_is_one_line_with_the_mend(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(url: str) -> str:
        remote._file_system.cache_clear()
        with pytest.raises(UserError) as caught:
            (place(url) / "x").exists()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
        return str(caught.value)

    try:
        assert told(s3.url("data", bucket="nobucket")).startswith(
            "there is no bucket nobucket for s3://nobucket/data/x"
        )
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        fix = "is refused; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, of someone who may use it"
        assert told(s3.url("data")).endswith(fix)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        assert told(s3.url("data")).endswith(fix)
    finally:
        remote._file_system.cache_clear()


def test_a_server_that_is_not_there() -> None:
    url = "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http"
    with pytest.raises(
        UserError, match=r"^cannot reach the server of s3://bucket/x\?.*check the endpoint and the network"
    ):
        place(url).exists()


# ---- many at a time


def test_ahead_keeps_the_order_and_raises_in_its_turn() -> None:
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
        for value in remote.ahead(work, range(50), at_once=4):
            seen.append(value)  # noqa: PERF402 (it ends in an error)
    assert seen == [i * i for i in range(30)] and 1 < most <= 4
    assert list(remote.ahead(work, [])) == []
