"""`cxr-ray train` in this process: several seeds in sequence."""

from pathlib import Path

import pytest

from cxr_ray import cli, runs
from cxr_ray.cli.commands import train
from tests.fakes.study_store import write_store

SMALL = ["--model.name", "lenet", "--train.epochs", "1", "--report.trackers", "[]", "--seed", "4", "--name", "run"]


def test_each_seed_is_a_run_and_the_same_command_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_store(tmp_path / "shards", seed=0)
    words = ["train", "--data.shards", str(store.path), "--output", str(tmp_path), *SMALL]
    assert cli.main([*words, "--seeds", "2"]) == 0
    made = [runs.load(tmp_path / f"run-seed-{seed}") for seed in (4, 5)]
    assert [(run.config.seed, run.config.seeds, run.info["status"]) for run in made] == [
        (4, 1, "finished"), (5, 1, "finished"),
    ]  # fmt: skip
    first, second = (run.plan.set_index("row") for run in made)
    assert (first["part"] == second["part"]).all()  # the split has a seed of its own
    assert capsys.readouterr().out.endswith(f"next: cxr-ray compare {made[0].path} {made[1].path}\n")

    before = [(run.path / "metrics.csv").stat().st_mtime_ns for run in made]
    assert cli.main([*words, "--seeds", "3"]) == 0
    assert [(run.path / "metrics.csv").stat().st_mtime_ns for run in made] == before
    assert runs.load(tmp_path / "run-seed-6").info["status"] == "finished"
    capsys.readouterr()
    assert cli.main([*words, "--seeds", "3", "--optim.lr", "0.5"]) == 2  # finished runs had another config
    assert "was started with another config (optim.lr: was 0.0001, is 0.5); give a new name" in capsys.readouterr().err


def test_a_new_run_starts_from_the_settings_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "runs" / "first"
    base.mkdir(parents=True)
    (base / "config.yaml").write_text("name: first\noutput: elsewhere\noptim: {lr: 0.5}\ntrain: {epochs: 2}\n")
    found = train.read_config(None, ("--epochs", "20", "--name", "longer"), base=str(base))
    assert (found.name, found.output, found.optim.lr, found.train.epochs) == ("longer", str(base.parent), 0.5, 20)
    for words, message in (
        (["--from", str(tmp_path)], "it has no config.yaml"),
        (["--from", str(base / "config.yaml")], "is not a run folder"),
        (["--from", str(base), "-c", "x.yaml"], "-c and --from"),
        (["--from", str(base), "--resume", str(base)], "--resume continues a run"),
    ):
        assert cli.main(["train", *words]) == 2 and message in capsys.readouterr().err
