"""`cxr-ray predict`: its words, what it prints, and mistakes, which are one line."""

from pathlib import Path

import pandas as pd
import pytest

from cxr_ray.cli import main
from tests.fakes import archive
from tests.fakes.explained import store, trained


def run_command(*words: object) -> int:
    return main(["predict", *(str(word) for word in words)])


def test_a_folder_with_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive.files(tmp_path / "in", 4)
    (tmp_path / "in" / "0" / "bad.png").write_bytes(b"")
    out = tmp_path / "out.csv"
    assert run_command(trained().path, tmp_path / "in", out, "--thresholds", "Mass=0.25", "--batch-size", 3) == 0
    shown = capsys.readouterr().out
    assert "5 rows by image, 1 refused" in shown and "refused: 1 empty file" in shown and f"predictions: {out}" in shown
    table = pd.read_csv(out)
    label = next(line.split() for line in shown.splitlines() if line.split()[:1] == ["Mass"])
    assert label[1] == str(int((table["decision/Mass"] == True).sum())) and float(label[2]) == 0.25  # noqa: E712
    assert run_command(trained().path, tmp_path / "in", out, "--thresholds", "Mass=0.25") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.parquet"
    for words, message in (
        ((tmp_path, store().path, out), "is not a run folder"),
        ((trained().path, tmp_path / "gone", out), "there is nothing at"),
        ((trained().path, store().path, out, "--thresholds", "recal=0.9"), "recall"),
        ((trained().path, store().path, tmp_path / "out.xlsx"), "ends with .parquet or .csv"),
        ((trained().path, store().path, "s3://bucket/out.parquet"), "must be in a local folder"),
    ):
        assert run_command(*words) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1, error
    assert not list(tmp_path.iterdir())
