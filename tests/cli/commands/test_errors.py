"""`cxr-ray errors` on saved predictions."""

from pathlib import Path

import numpy as np
import pytest

from cxr_ray import cli
from cxr_ray.data import store_writer
from tests.evaluation.example_runs import LABELS, example_run
from tests.fakes.store import fake_store
from tests.report.test_run_page import CLASSES, make_run


def test_errors_are_listed_with_their_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = example_run(tmp_path, "one")
    assert cli.main(["errors", str(run.path), "--label", LABELS[0], "--top", "3"]) == 0
    output = capsys.readouterr().out
    assert "3 of " in output and "wrong decisions on test of one" in output
    assert "files are not shown: no store at" in output and "negative" in output
    assert run.info["test_looks"] == 1
    fake = fake_store(200)
    store = store_writer.write(
        tmp_path / "shards", fake.pixels, fake.index.drop(columns=["mean", "variance"]), fake.info
    )
    table = run.predictions("test")
    run.write_predictions(
        "test", table.assign(row=np.resize(store.index["row"].to_numpy(), len(table)) if len(table) <= 200 else None)
    )
    run.update(store={**run.info["store"], "path": str(store.path)})
    assert cli.main(["errors", str(run.path), "--thresholds", "0.3"]) == 0
    output = capsys.readouterr().out
    assert any(name in output for name in store.index["image"]) and "test-set evaluations so far: 2" in output
    assert "next: cxr-ray describe" in output
    assert cli.main(["errors", str(run.path), "--split", "train"]) == 2
    assert "no predictions of train" in capsys.readouterr().err


def test_the_note_states_whose_probability_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, CLASSES, "multiclass")
    assert cli.main(["errors", str(run.path)]) == 0
    assert "probability: of the true class" in capsys.readouterr().out
    assert cli.main(["errors", str(run.path), "--label", CLASSES[0]]) == 0
    out = capsys.readouterr().out
    assert "probability: of the label" in out and " label " in out
