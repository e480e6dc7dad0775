"""Fixtures of the store tests."""

import shutil
from pathlib import Path

import pytest

from tests.data.small_store import make


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small store, only to read."""
    return make(tmp_path_factory.mktemp("store") / "s").path


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    """A copy of the small store, to change."""
    return Path(shutil.copytree(path, tmp_path / "copy"))
