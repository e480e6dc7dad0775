"""Predictions by actors of Ray Data equal those of this process, for files and stores, also after an interruption."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cxr_ray
from cxr_ray.errors import UserError
from cxr_ray.inference import prediction_parts
from cxr_ray.on_ray import cluster
from tests.data.test_store_check import flip
from tests.fakes import archive
from tests.fakes.explained import quiet, store, trained


def predict(*args: Any, **options: Any) -> pd.DataFrame:
    return cxr_ray.predict(*args, **{"log": quiet, "gpu": False, **options}).table


def test_workers_give_the_table_of_one_process(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.files(tmp_path / "files", 40)
    (tmp_path / "files" / "2" / "empty.png").write_bytes(b"")
    one = predict(trained(), tmp_path / "files", tmp_path / "one.parquet")
    monkeypatch.setattr(prediction_parts, "PART_INPUTS", 8)
    add = prediction_parts.PredictionParts.add
    done: list[int] = []

    def stopping(self: Any, batch: Any) -> int:
        if len(done) >= 20:
            raise KeyboardInterrupt
        done.extend(batch.positions)
        return add(self, batch)

    out = tmp_path / "two.parquet"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prediction_parts.PredictionParts, "add", stopping)
        predict(trained(), tmp_path / "files", out, workers=2, batch_size=4)
    assert done == list(range(20)) and not out.exists()  # in order
    two = predict(trained(), tmp_path / "files", out, workers=2, batch_size=4)
    pd.testing.assert_frame_equal(two, one, atol=1e-6, rtol=0)
    assert two["refused"].notna().sum() == 1


def test_workers_predict_a_store(ray_local: None, tmp_path: Path) -> None:
    one = predict(trained(), store(), tmp_path / "one.parquet")
    two = predict(trained(), store(), tmp_path / "two.parquet", workers=2, batch_size=16)
    pd.testing.assert_frame_equal(two, one, atol=1e-6, rtol=0)


def test_workers_keep_nothing_of_a_store_whose_bytes_changed(ray_local: None, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(store().path, shards)
    shard = next(iter(sorted(shards.glob("*.arrow"))))
    flip(shard, 1000)
    with pytest.raises(
        UserError, match=rf"{shard.name} \(rows \d+ to \d+\) has changed: its checksum differs, on the node "
    ):
        predict(trained(), shards, tmp_path / "out.parquet", workers=2, batch_size=16)
    assert not (tmp_path / "out.parquet").exists() and not list(tmp_path.glob("*.parts/part-*"))


def test_more_workers_than_cores_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "is_local", lambda address: True)  # the tests' Ray may run
    with pytest.raises(UserError, match="1000 workers are asked for, but this machine has"):
        predict(trained(), store(), tmp_path / "out.parquet", workers=1000, address="local")
