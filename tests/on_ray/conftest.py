"""An ingest that the tests of ingests compare with."""

from pathlib import Path

import pytest

from cxr_ray.datasets import Records
from tests.on_ray.small_ingest import make_records, run


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> tuple[Records, Path, Path]:
    """Records, the folder of their images, and their store. Nobody changes them."""
    root = tmp_path_factory.mktemp("good")
    records = make_records(root / "images")
    run(records, root / "images", root / "store")
    return records, root / "images", root / "store"
