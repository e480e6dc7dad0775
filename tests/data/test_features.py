"""Features on disk: every row by its number, and damage of every kind refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cxr_ray import config as cfg
from cxr_ray.data import features
from cxr_ray.errors import UserError

ORIGIN = features.Origin(store="s", model="lenet", weights="w", image_size=(28, 28), precision="fp32")
ROWS = np.array([3, 9, 6, 20, 12, 15])
VALUES = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def write(folder: Path) -> Path:
    """Six rows in two shards."""
    folder.mkdir()
    files = {}
    for number, here in enumerate((slice(0, 4), slice(4, 6))):
        name = features.shard_name(number, 2)
        files[name] = features.write_shard(folder / name, ROWS[here], VALUES[here])
    features.write_manifest(folder, ORIGIN, features=5, rows=6, files=files)
    return folder


def test_rows_in_any_order_and_repeated(tmp_path: Path) -> None:
    found = features.open(write(tmp_path / "f"), verify="full")
    assert len(found) == 6 and found.size == (1, 5) and found.manifest.origin == ORIGIN
    assert found.rows.tolist() == sorted(ROWS)
    order = [5, 0, 2, 2, 4, 1, 3]
    np.testing.assert_array_equal(found.vectors(ROWS[order]), VALUES[order])
    out = np.empty((7, 1, 5), np.float32)
    assert found.images(ROWS[order], out) is out
    np.testing.assert_array_equal(out[:, 0], VALUES[order])
    assert found.images([]).shape == (0, 1, 5)


@pytest.mark.parametrize("row", [-1, 0, 4, 21])
def test_a_row_without_features(tmp_path: Path, row: int) -> None:
    with pytest.raises(UserError, match=f"no features of row {row}"):
        features.open(write(tmp_path / "f")).images([3, row])


@pytest.mark.parametrize("verify", ["manifest", "full"])
def test_damage_is_refused(tmp_path: Path, verify: features.Verify) -> None:
    cut, missing, changed, newer = (write(tmp_path / name) for name in ("cut", "missing", "changed", "newer"))
    shard = features.shard_name(1, 2)
    (cut / shard).write_bytes((cut / shard).read_bytes()[:-1])
    (missing / shard).unlink()
    body = json.loads((changed / "manifest.json").read_text())
    (changed / "manifest.json").write_text(json.dumps({**body, "rows": 5}))
    (newer / "manifest.json").write_text(json.dumps({**body, "format": "cxr_ray features 2"}))
    for folder, message in ((cut, "another size"), (missing, "missing"), (changed, "was changed"), (newer, "newer")):
        with pytest.raises(UserError, match=message):
            features.open(folder, verify=verify)


def test_a_flipped_bit_is_found_by_every_byte(tmp_path: Path) -> None:
    file = write(tmp_path / "f") / features.shard_name(0, 2)
    body = bytearray(file.read_bytes())
    body[bytes(body).index(VALUES[0].tobytes())] ^= 1
    file.write_bytes(body)
    features.open(tmp_path / "f")
    with pytest.raises(UserError, match=r"bytes of features-00000-of-00002.arrow changed"):
        features.open(tmp_path / "f", verify="full")


def test_what_is_no_folder_of_features(tmp_path: Path) -> None:
    unfinished, other = tmp_path / "unfinished", tmp_path / "other"
    for folder, name in ((unfinished, features.UNFINISHED), (other, "manifest.json")):
        folder.mkdir()
        (folder / name).write_text("{}")
    for folder, message in ((unfinished, "run the same"), (other, "not that of"), (tmp_path / "none", "cxr-ray embed")):
        with pytest.raises(UserError, match=message):
            features.open(folder)


def test_a_training_reads_the_features_of_its_own_store(tmp_path: Path) -> None:
    data = cfg.Data(features=str(write(tmp_path / "f")))
    store = SimpleNamespace(fingerprint="s", index="index", origin="here")
    source = features.training_source(store, data)
    assert source.index == "index" and source.images([9])[0, 0].tolist() == VALUES[1].tolist()
    assert features.training_source(store, cfg.Data()) is store
    with pytest.raises(UserError, match="of another store"):
        features.training_source(SimpleNamespace(fingerprint="t", origin="there"), data)


def test_features_that_were_made_again(tmp_path: Path) -> None:
    found = features.open(write(tmp_path / "f"))
    features.check_unchanged(found, {"features": found.manifest.digest})
    with pytest.raises(UserError, match="made again since"):
        features.check_unchanged(found, {"features": "another"})
