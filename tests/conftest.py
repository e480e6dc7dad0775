"""Shared by all tests: the environment of Ray and torch, the folder of real data, and per session one Ray and one S3 server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.ports import free_port

# Ray reads these at its import, so they are set before any test module is collected. Assigned, not `setdefault`, if the
# caller's value would change what is tested.
os.environ["RAY_AUTH_MODE"] = "disabled"  # ignores a token in the home folder
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in Ray's workers, so that results with and without Ray are equal
for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "CXR_RAY_DEBUG", "NANIO_OPTIONS_FILE", "COLUMNS"):
    os.environ.pop(name, None)
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
# Only for the S3 server below; Ray's workers inherit them.
os.environ |= {
    "AWS_ACCESS_KEY_ID": "cxr-ray-tests",
    "AWS_SECRET_ACCESS_KEY": "no-secret",
    "AWS_EC2_METADATA_DISABLED": "1",
}
os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"  # nanio accepts no checksum in a trailer

# A shell's background job ignores Ctrl-C, as do then the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_NO_REAL_DATA = (
    "no real data: set CXR_RAY_SHARED to the folder that holds data/, or put it at ../shared beside the checkout"
)


def shared_folder() -> Path | None:
    """The `data` folder of real X-rays, or None if this machine has none."""
    root = Path(os.environ.get("CXR_RAY_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    return root / "data" if (root / "data").is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use the session's Ray: `make test` runs them separately."""
    for item in items:
        if "ray_local" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data (`$CXR_RAY_SHARED/data`, else `../shared/data` beside the checkout); skips without it."""
    folder = shared_folder()
    if folder is None:
        pytest.skip(_NO_REAL_DATA)
    return folder


@pytest.fixture(scope="session")
def published_tables() -> Path:
    """Folder of published tables of the datasets (`$CXR_RAY_TABLES`), as the data files of torchxrayvision's wheel have them;
    skips without it."""
    folder = Path(os.environ.get("CXR_RAY_TABLES") or "no-folder")
    if not folder.is_dir():
        pytest.skip("no published tables: set CXR_RAY_TABLES to the folder of torchxrayvision's data files")
    return folder


@pytest.fixture(autouse=True)
def _no_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """User files, such as the key of pseudonyms, are not written to the home folder of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One local Ray with two CPUs for the session, never a cluster that already runs on this machine."""
    import ray

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


class S3:
    """An S3 server (nanio) on loopback in a process of its own. It checks signatures and stores objects as files."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        keys = {
            f"NANIO_{name}": os.environ[f"AWS_{source}"]
            for name, source in (("ACCESS_KEY", "ACCESS_KEY_ID"), ("SECRET_KEY", "SECRET_ACCESS_KEY"))
        }
        (folder / "bucket").mkdir(parents=True)
        self.folder = folder
        arguments = [
            "serve",
            "--data-dir",
            str(folder),
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--log-level",
            "error",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nanio", *arguments, "--no-access-log"], env={**os.environ, **keys}
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the S3 server did not start") from None
                time.sleep(0.05)

    def url(self, path: str = "", *, bucket: str = "bucket") -> str:
        """URL of a folder or file in the bucket, with the address of the server."""
        return f"s3://{bucket}/{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def upload(self, folder: Path, path: str) -> str:
        """Copy a local folder into the bucket; returns its URL."""
        from cxr_ray.storage.remote import to_path

        for file in folder.rglob("*"):
            if file.is_file():
                (to_path(self.url(path)) / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
        return self.url(path)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One S3 server for the session; each test uses its own folder in the bucket."""
    server = S3(tmp_path_factory.mktemp("s3"))
    yield server
    server.process.terminate()
    server.process.wait(10)


@pytest.fixture(scope="session")
def store(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 60 synthetic patients at 32 px, for trainings. Modules that need another store make their own."""
    from cxr_ray import datasets
    from cxr_ray.datasets.phantom import generate
    from cxr_ray.on_ray.ingest import IngestSettings, ingest

    folder = tmp_path_factory.mktemp("phantom")
    root = generate.write(folder / "raw", patients=60, size=64, seed=1)
    records = datasets.load("phantom", root)
    made = folder / "shards"
    ingest(records, root, made, IngestSettings(source="phantom", size=(32, 32)))
    return made


@pytest.fixture(autouse=True)
def _debug_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXR_RAY_DEBUG", raising=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report how many tests were skipped for lack of real data: a green run without them proves less."""
    skipped = [
        r
        for r in terminalreporter.stats.get("skipped", [])
        if isinstance(r.longrepr, tuple) and "no real data" in r.longrepr[2]
    ]
    if skipped:
        terminalreporter.section("real data")
        terminalreporter.write_line(f"{len(skipped)} tests on real data were SKIPPED: {_NO_REAL_DATA}")
