"""`compare` on a narrow terminal."""

from pathlib import Path

import pytest

from cxr_ray.cli import main
from tests.evaluation.example_runs import example_run


def test_every_column_has_room_at_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A p-value that the resamples bound needs no more room than others: their number is said once."""
    monkeypatch.setenv("COLUMNS", "80")
    weak, strong = example_run(tmp_path, "weak", skill=0.3), example_run(tmp_path, "strong", skill=200.0)
    assert main(["compare", str(weak.path), str(strong.path)]) in (0, None)
    out = capsys.readouterr().out
    assert "s resampled 100 times" in out and "≤ 0.02" in out
    assert "no room" not in out and out.count("resample") == 1
