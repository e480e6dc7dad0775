"""Training as a notebook does it: a bar of the epochs, an interrupt, and a running event loop."""

import asyncio
from pathlib import Path

import pytest

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.on_ray import train as on_ray
from cxr_ray.training import epoch_bar
from tests.fakes import notebook
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, write_store


@pytest.fixture
def settings(tmp_path: Path) -> cfg.Config:
    store = write_store(tmp_path / "shards", fake_store(96, labels=("Edema", "Mass"), size=(32, 32)))
    return config(tmp_path, data={"shards": str(store), "split": {"val": 0.25, "test": 0}}, report={"trackers": []})


def test_a_notebook_shows_a_bar_of_the_epochs(settings: cfg.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = notebook.install(monkeypatch)
    monkeypatch.setattr(epoch_bar, "INTERVAL_S", 0.05)
    on_ray.train(settings, log=lambda line: None)
    (states,) = shown
    assert "0 of 2 epochs" in states[0] and "2 of 2 epochs" in states[-1]


def test_outside_a_notebook_there_is_no_bar(settings: cfg.Config, capsys: pytest.CaptureFixture[str]) -> None:
    with epoch_bar.epoch_bar(runs.Run(Path(settings.output))):
        pass
    assert capsys.readouterr().out == ""


def test_training_works_in_a_running_event_loop(settings: cfg.Config) -> None:
    """As in a cell of a notebook, whose kernel runs one."""

    async def cell() -> runs.Run:
        return on_ray.train(settings, log=lambda line: None)

    assert asyncio.run(cell()).info["status"] == "finished"


def test_an_interrupted_cell_leaves_a_run_that_resumes(settings: cfg.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt of a kernel is a KeyboardInterrupt in the cell, as Ctrl-C is in a terminal."""
    notebook.install(monkeypatch)
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if line.startswith("epoch 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_ray.train(settings, log=log)
    assert lines[-1].startswith("interrupted: ") and "continues from the last checkpoint" in lines[-1]
    run = on_ray.train(settings, log=lambda line: None)  # no lease is left behind
    assert run.info["status"] == "finished" and int(run.metrics["epoch"].max()) == 2
