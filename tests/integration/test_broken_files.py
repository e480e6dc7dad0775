"""A folder of valid, broken, foreign and hostile files through the real ingest: each is stored, or rejected with its reason."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from cxr_ray.data import store as stores
from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets import Records, records_table
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.files import read
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from tests.fakes import broken

SIZE = (32, 32)
ACCEPTED, REJECTED = 33, 38
REASONS = {
    "not an image": 9, "damaged": 6, "several frames": 5, "truncated": 4, "over the pixel cap": 3, "file missing": 2,
    "not a regular file": 2, "outside the root": 2, "empty file": 1, "values not finite": 1, "no pixels": 1,
    "unsupported transfer syntax": 1, "unsupported pixel kind": 1,
}  # fmt: skip


def test_every_file_is_stored_or_rejected_with_its_reason(tmp_path: Path, ray_local: None) -> None:
    good, bad = broken.write(tmp_path / "images")
    names = sorted([*good, *bad])
    table = records_table({"image": names}, {"a": np.zeros(len(names))}, rows=len(names))
    records = Records(table, DatasetInfo(labels=("a",), task="binary", default_labels=("a",)))
    result = ingest(
        records, tmp_path / "images", tmp_path / "s", IngestSettings(source="broken", size=SIZE, max_rejected=0.6)
    )
    assert (result.rows, result.rejected) == (ACCEPTED, REJECTED) == (len(good), len(bad))
    store = stores.open(tmp_path / "s", verify="full")
    assert set(store.index["image"]) == set(good)
    rejected = store.rejected()
    assert dict(zip(rejected["image"], rejected["reason"], strict=True)) == bad
    assert Counter(rejected["reason"]) == REASONS
    for name, image in zip(store.index["image"], store.images(store.index["row"]), strict=True):
        np.testing.assert_array_equal(image, decode(read(tmp_path / "images", name), SIZE).pixels)


def test_small_hostile_files_need_little_memory(tmp_path: Path) -> None:
    """A decompression bomb is rejected before it is expanded, within the memory of a few ordinary images."""
    good, bad = broken.write(tmp_path / "images")
    hostile = [name for name in bad if any(word in name for word in ("pixel", "100_mb", "deflated"))]
    assert len(hostile) == 5 and all((tmp_path / "images" / name).stat().st_size < 100_000 for name in hostile)
    script = (
        "import resource, sys\nfrom cxr_ray.imaging.decode import decode\nfrom cxr_ray.imaging.files import read\nfrom cxr_ray.imaging.pixels import ImageError\n"
        "def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "root, first, *names = sys.argv[1:]\ndecode(read(root, first), (32, 32))\nbefore = used()\n"
        "for name in names:\n    try:\n        decode(read(root, name), (32, 32))\n    except ImageError:\n        continue\n"
        "    raise SystemExit(name)\nprint(used() - before)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "images"), "explicit.dcm", *hostile],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    ).stdout  # fmt: skip
    assert "explicit.dcm" in good and float(out) < 30  # MiB
