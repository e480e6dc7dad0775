"""Training in this process: progress goes to the run's log and to the caller, a stop request ends it after a checkpoint."""

from pathlib import Path

import torch

from cxr_ray import runs
from cxr_ray.training import setup, trainer
from cxr_ray.training.local import in_process
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, write_store


def train(folder: Path, *, stop: bool = False, **sections: dict) -> tuple[runs.Run, list[str]]:
    """A finished or stopped run, and the lines that it logged."""
    shards = write_store(folder / "store", fake_store(60))
    store, plan, resolved = setup.prepare(config(folder, data={"shards": str(shards)}, **sections))
    run, lines = setup.open_run(resolved, store, plan), []

    def log(line: str) -> None:
        lines.append(line)
        if stop and line.startswith("epoch 1/"):
            run.request_stop()

    with in_process(resolved, run, log) as context:
        trainer.fit(resolved, plan, store, context, run)
    return run, lines


def test_progress_goes_to_the_runs_log_and_to_the_caller(tmp_path: Path) -> None:
    run, lines = train(tmp_path)
    assert run.info["status"] == "finished" and run.info["epochs"] == 2
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["0/2", "1/2", "2/2"]
    assert (run.path / "log.txt").read_text().splitlines() == lines


def test_a_stop_file_ends_it_after_a_checkpoint(tmp_path: Path) -> None:
    run, lines = train(tmp_path, stop=True, train={"epochs": 30})
    assert run.info["status"] == "stopped" and run.info["ended"] == "stop" and run.info["epochs"] < 30
    assert "ending after epoch 1: a stop was requested" in lines


def test_threads_are_set(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        train(tmp_path, train={"threads": threads + 1, "epochs": 0})
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
