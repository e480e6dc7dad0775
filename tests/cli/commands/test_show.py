"""`cxr-ray show` on saved predictions."""

from pathlib import Path

import pytest

from cxr_ray import config as configs
from cxr_ray.cli.commands.show import show
from tests.evaluation.example_runs import LABELS, example_run
from tests.report.test_run_page import predictions


def test_every_setting_of_a_run_can_be_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = example_run(tmp_path, "one")
    show(run.path)
    assert "augment.erase" not in capsys.readouterr().out
    show(run.path, settings=True)
    output = capsys.readouterr().out
    assert all(name in output for name, _ in configs.settings(configs.Config)) and str(run.path) in output


def test_both_is_train_and_val_with_their_curves_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = example_run(tmp_path, "one")
    show(run.path, split="both", thresholds=["0.2"])  # this run has no model that could predict train
    output = capsys.readouterr().out
    assert "val of one" in output and "test of one" not in output and "cannot be shown side by side" in output
    assert run.info["test_looks"] == 1  # test was not evaluated again
    run.write_predictions("train", predictions(LABELS, "multilabel", 60, 2.0, 1))
    show(run.path, split="both", thresholds=["0.2"], labels=LABELS[:2])
    output = capsys.readouterr().out
    assert "train of one" in output and f"next: cxr-ray train --resume {run.path}" in output  # it has no model
    assert f"curves: {run.path / 'train-and-val.png'}" in output
    assert (run.path / "train-and-val.png").read_bytes().startswith(b"\x89PNG")
    (run.path / "report.html").touch()
    show(run.path, split="both", thresholds=["0.2"])
    output = capsys.readouterr().out
    assert output.rstrip().endswith(f"report: {run.path / 'report.html'}") and "next: " not in output
