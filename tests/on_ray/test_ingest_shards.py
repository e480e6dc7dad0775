"""Shards whose workers die: by an image that crashes its decoder, or with their machine."""

import importlib
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cxr_ray.data import store as stores
from cxr_ray.datasets import Records
from cxr_ray.errors import UserError
from cxr_ray.on_ray import ingest as ingest_module
from cxr_ray.on_ray import ingest_shards
from cxr_ray.on_ray.ingest_shards import ShardJob, ShardRange, ingest_shard, run_shards
from tests.on_ray.small_ingest import N, content, run

KILLER = Path(__file__).parents[1] / "fakes" / "killer"


def killing(job: ShardJob, paths: pa.Table, shard: ShardRange) -> dict[str, int]:
    """The task of an ingest whose decoder may kill its process."""
    sys.path.insert(0, str(KILLER))
    importlib.import_module("sitecustomize")

    return ingest_shard(job, paths, shard)


def crashing_once(job: ShardJob, paths: pa.Table, shard: ShardRange) -> dict[str, int]:
    """The task on a machine that is lost in the first round."""
    if job.care == "none" and shard.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ingest_shard(job, paths, shard)


def lost(job: ShardJob, paths: pa.Table, shard: ShardRange) -> dict[str, int]:
    """The task on machines that are always lost."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_an_image_whose_decoder_crashes_is_rejected_and_all_others_are_stored(
    good: tuple[Records, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By an abort, a segmentation fault, and a kill such as that of the kernel for memory; two of them in one shard."""
    root = Path(shutil.copytree(good[1], tmp_path / "images"))
    deadly = {5: signal.SIGABRT, 20: signal.SIGSEGV, 149: signal.SIGKILL}
    for row, number in deadly.items():
        (root / f"{row:03d}.png").write_bytes(f"die of {number:d} ".encode())
    monkeypatch.setattr(ingest_module, "run_shards", partial(run_shards, task=killing))
    calls: list[tuple[int, int, int]] = []
    result = run(good[0], root, tmp_path / "s", max_rejected=0.05, progress=lambda *a: calls.append(a))
    assert (result.rows, result.rejected) == (N - 3, 3) and calls[-1] == (N, N, 3)
    store, first = stores.open(tmp_path / "s", verify="full"), stores.open(good[2])
    reasons = store.rejected().set_index("row")["reason"].to_dict()
    assert reasons == {5: "the decoder crashed", 20: "the decoder crashed", 149: "too little memory to decode it"}
    rows = [row for row in range(N) if row not in deadly]
    assert store.index["row"].tolist() == rows
    np.testing.assert_array_equal(store.images(rows), first.images(rows))
    kept = first.index[first.index["row"].isin(rows)].drop(columns=["offset"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(store.index.drop(columns=["offset"]), kept)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_the_images_of_a_lost_machine_are_not_rejected(
    good: tuple[Records, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "run_shards", partial(run_shards, task=crashing_once))
    assert run(good[0], good[1], tmp_path / "s").rejected == 0
    assert content(tmp_path / "s") == content(good[2])


def test_workers_that_always_die_end_the_ingest_and_it_can_continue(
    good: tuple[Records, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, "run_shards", partial(run_shards, task=lost))
        patch.setattr(ingest_shards, "ROUNDS", ("none", "alone"))  # two of four
        with pytest.raises(UserError, match="the workers of 3 of 3 shards died 2 times, though not at one image"):
            run(good[0], good[1], tmp_path / "s")
    assert run(good[0], good[1], tmp_path / "s").rejected == 0
    assert content(tmp_path / "s") == content(good[2])
