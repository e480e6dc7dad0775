"""`cxr-ray export`: what it prints, and its errors in one line."""

from pathlib import Path

import pytest

from cxr_ray import cli
from tests.fakes.exported import trained_run


def test_a_run_is_exported_with_its_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained_run(tmp_path, data={"image_size": [28, 28]})
    assert cli.main(["export", str(run.path), str(tmp_path / "model"), "--format", "pt2", "--size", "40x32"]) == 0
    output = capsys.readouterr().out
    assert "note: run has no operating points yet; `cxr-ray evaluate" in output
    assert "compared with the run on 32 images of the run's store, resized to 40 x 32: largest difference" in output
    assert f"model: {tmp_path / 'model.pt2'}" in output and f"model card: {tmp_path / 'model.pt2.md'}" in output
    assert "open only files that you trust" in output
    assert "`images` [N, 40, 32]" in (tmp_path / "model.pt2.md").read_text()
    for words, message in (
        (["model", "--size", "big"], "--size big: give pixels"),
        (["model.zip"], "model.zip does not say which format to write"),
        (["model.onnx", "--size", "20"], "the model needs 28 x 28 pixels"),
    ):
        assert cli.main(["export", str(run.path), str(tmp_path / words[0]), *words[1:]]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_wrong_path_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(tmp_path / "none"), "model.onnx"]) == 2
    assert "is not a run folder" in capsys.readouterr().err
