"""A prediction that is killed, stopped by a full disk, or repeated: nothing is lost, and nothing is written over."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray.errors import UserError
from cxr_ray.inference import prediction_parts
from tests.fakes import archive
from tests.fakes.explained import store, trained
from tests.workflows.test_predict import add_bad_files, predict


def test_a_killed_prediction_goes_on_with_the_missing_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.files(tmp_path / "files")
    add_bad_files(tmp_path / "files")
    whole = predict(trained(), tmp_path / "files", tmp_path / "whole.parquet").table
    monkeypatch.setattr(prediction_parts, "PART_INPUTS", 8)
    add = prediction_parts.PredictionParts.add
    seen: list[int] = []

    def stopping(self: Any, batch: Any) -> int:
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(len(batch.positions))
        return add(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prediction_parts.PredictionParts, "add", stopping)
        predict(trained(), tmp_path / "files", tmp_path / "out.parquet", batch_size=4)
    parts = sorted(path.name for path in (tmp_path / "out.parquet.parts").glob("part-*"))
    assert parts == ["part-00000.parquet", "part-00001.parquet"] and not (tmp_path / "out.parquet").exists()
    with monkeypatch.context() as patch:
        later: list[int] = []
        patch.setattr(
            prediction_parts.PredictionParts, "add", lambda self, b: later.extend(b.positions) or add(self, b)
        )
        found = predict(trained(), tmp_path / "files", tmp_path / "out.parquet", batch_size=4)
    assert later == list(range(16, 64))
    pd.testing.assert_frame_equal(found.table, whole)
    assert not (tmp_path / "out.parquet.parts").exists()


@pytest.mark.long
def test_sigkill_in_the_middle(tmp_path: Path) -> None:
    """The process itself is killed; the same command goes on and gives what an undisturbed one gives."""
    archive.files(tmp_path / "files")
    out = tmp_path / "out.parquet"
    code = (
        "import sys, time, cxr_ray; from cxr_ray.inference import prediction_parts as p; p.PART_INPUTS = 8\n"
        "write = p.PredictionParts._write\n"
        "p.PredictionParts._write = lambda *a: (write(*a), time.sleep(0.2))\n"
        "cxr_ray.predict(*sys.argv[1:], gpu=False, batch_size=8)"
    )
    words = [sys.executable, "-c", code, str(trained().path), str(tmp_path / "files"), str(out)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out.with_name("out.parquet.parts") / "part-00002.parquet").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    whole = predict(trained(), tmp_path / "files", tmp_path / "whole.parquet").table
    found = pd.read_parquet(out)
    assert found["image"].tolist() == whole["image"].tolist()
    np.testing.assert_allclose(archive.probabilities(found), archive.probabilities(whole), atol=1e-6)
    assert found.filter(regex="^decision/").equals(whole.filter(regex="^decision/"))


def test_an_output_is_finished_once_and_never_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    first = predict(trained(), store(), out)
    before = out.read_bytes()
    again = predict(trained(), store(), out)
    assert again.already and again.metadata == first.metadata
    for other, message in (
        ({"thresholds": 0.3}, "with other thresholds"),
        ({"part": "val"}, "of other inputs"),
        ({"by": "study"}, "with another by"),
    ):
        with pytest.raises(UserError, match=f"out.parquet exists, {message}; give another output, or delete it"):
            predict(trained(), store(), out, **other)
    with pytest.raises(UserError, match="of another run, or of other weights"):
        predict(trained(seed=1), store(), out)
    assert out.read_bytes() == before
    for name in ("text.parquet", "text.csv"):
        (tmp_path / name).write_text("a,b\n1,2\n")
        with pytest.raises(UserError, match="was not written by predict; give another output"):
            predict(trained(), store(), tmp_path / name)
    (tmp_path / "own.csv.json").write_text("{}")
    with pytest.raises(UserError, match=r"own\.csv\.json, where the metadata .* was not written by predict"):
        predict(trained(), store(), tmp_path / "own.csv")
    with pytest.raises(UserError, match="is a store, which lists its files"):
        predict(trained(), store(), store().path / "out.parquet")
    csv = tmp_path / "again.csv"
    predict(trained(), store(), csv)
    csv.unlink()
    predict(trained(), store(), csv, thresholds=0.3)  # over the metadata of the deleted one


def test_an_unfinished_prediction_of_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.parquet"

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space left to write"):
        patch.setattr(prediction_parts.pq, "write_table", full)
        predict(trained(), store(), out)
    assert not out.exists() and not list(out.with_name("out.parquet.parts").glob("part*"))
    with pytest.raises(
        UserError, match=r"unfinished prediction with other thresholds: repeat the command .* delete that"
    ):
        predict(trained(), store(), out, thresholds=0.1)
    assert len(predict(trained(), store(), out).table) == 60  # space again


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts a small disk")
@pytest.mark.parametrize("free_kib", [4, 8, 16])
def test_a_full_disk(free_kib: int, tmp_path: Path) -> None:
    """Whatever does not fit - the manifest, a part, the table - nothing looks whole, and with space again the command goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        (disk / "filler").write_bytes(bytes((256 - free_kib) * 1024))
        with pytest.raises(UserError, match=r"no space left to write .*; free some and run the same command again"):
            predict(trained(), store(), disk / "out.parquet")
        assert not (disk / "out.parquet").exists()
        (disk / "filler").unlink()
        assert len(predict(trained(), store(), disk / "out.parquet").table) == 60
    finally:
        subprocess.run(["umount", str(disk)], check=True)
