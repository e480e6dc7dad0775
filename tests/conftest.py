"""What every test shares: the environment of Ray and torch, the folder of real data, one Ray cluster a session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Ray reads these at its import, so they stand before any test module is collected. An assignment, not setdefault,
# where a value of the caller's would change what is tested.
os.environ["RAY_AUTH_MODE"] = "disabled"  # a token left in a home folder changes nothing
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Ray sets it in its workers: with and without Ray must compare
for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "CXR_RAY_DEBUG"):
    os.environ.pop(name, None)

_NO_REAL_DATA = (
    "no real data: set CXR_RAY_SHARED to the folder that holds data/, or put it at ../shared beside the checkout"
)


def shared_folder() -> Path | None:
    """The `data` folder of real X-rays, or None where there is none on this machine."""
    root = Path(os.environ.get("CXR_RAY_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    return root / "data" if (root / "data").is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data (`$CXR_RAY_SHARED/data`, else `../shared/data` beside the checkout); skips without it."""
    folder = shared_folder()
    if folder is None:
        pytest.skip(_NO_REAL_DATA)
    return folder


@pytest.fixture(autouse=True)
def _no_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for the user, such as the key of hashes, stays out of the home of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One local Ray of two CPUs for the whole session, never a cluster that happens to run on this host."""
    import ray

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _debug_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXR_RAY_DEBUG", raising=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud how many tests did not run because the real data is not here: a green run without them proves less."""
    skipped = [
        r
        for r in terminalreporter.stats.get("skipped", [])
        if isinstance(r.longrepr, tuple) and "no real data" in r.longrepr[2]
    ]
    if skipped:
        terminalreporter.section("real data")
        terminalreporter.write_line(f"{len(skipped)} tests on real data were SKIPPED: {_NO_REAL_DATA}")
