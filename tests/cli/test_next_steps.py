"""Every command line that is printed behind `next:` works on the run it is printed for."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxr_ray import runs
from cxr_ray.cli import next_steps
from cxr_ray.cli.app import main
from cxr_ray.cli.commands.submit import read_job
from cxr_ray.on_ray import train as on_ray
from cxr_ray.runs import ensemble
from cxr_ray.runtime import machine
from tests.fakes.figures import skip_drawing
from tests.fakes.store import fake_store
from tests.fakes.trainings import StopAfterPolls, config, fit, write_store

CLASSES = ("Covid", "Normal", "Pneumonia")


@pytest.fixture(autouse=True)
def fast_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_drawing(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., runs.Run]:
    """Trains a run on a store of so many labels in the folder of all of them."""
    folder = tmp_path_factory.mktemp("hints")

    def train(
        name: str, task: str = "multilabel", labels: tuple[str, ...] = ("Edema", "Mass"), **sections: Any
    ) -> runs.Run:
        path = folder / f"store-{task}"
        if not path.exists():
            fake = fake_store(80, labels=labels, task=task, size=(32, 32))
            fake.index["study"] = fake.index["patient"] + "/s"
            write_store(path, fake)
        data = {"shards": str(path), "split": {"val": 0.25, "test": 0.25, **sections.pop("split", {})}}
        report = {"bootstrap": 10, "trackers": [], "images": False, "rivals": False}
        settings = config(folder / "runs", name=name, data=data, report=report, train={"epochs": 1, **sections})
        return on_ray.train(settings, log=lambda line: None)

    return train


def follow(words: list[str], capsys: pytest.CaptureFixture[str], most: int = 4) -> list[list[str]]:
    """Run a command, then the one that it proposes, and so on; returns the proposed ones."""
    proposed: list[list[str]] = []
    while len(proposed) < most:
        assert main(words) == 0, (words, capsys.readouterr().err)
        hints = [
            line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ") and "cxr-ray " in line
        ]
        if not hints:
            break
        words = shlex.split(hints[-1].partition("cxr-ray ")[2], comments=True)
        if words in proposed:
            break
        proposed.append(words)
    return proposed


@pytest.mark.parametrize(
    ("task", "labels"), [("multilabel", ("Edema", "Mass")), ("multiclass", CLASSES), ("binary", ("Edema",))]
)
def test_hints_of_evaluations_and_errors_work(
    trained: Callable[..., runs.Run], task: str, labels: tuple[str, ...], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # describe --save writes there
    run = trained(task, task, labels)
    first, *_ = follow(["show", str(run.path)], capsys)
    assert first == ["evaluate", str(run.path)]  # it has no report yet
    for flags in (
        ["--thresholds", "recall=0.9"],
        ["--split", "val", "--by", "study"],
        ["--epoch", "0"],
        ["--intervals"],
    ):
        follow(["evaluate", str(run.path), *flags], capsys)
    assert main(["show", str(run.path), "--thresholds", "recall=0.9"]) == 0
    output = capsys.readouterr().out
    assert "next:" not in output and "all reports:" in output
    assert ("each class against the rest" in output) == (task == "multiclass")
    assert main(["show", str(run.path), "--split", "both"]) == 0


def test_hints_for_an_ensemble_of_folds_work(
    trained: Callable[..., runs.Run], capsys: pytest.CaptureFixture[str]
) -> None:
    folds = [trained(f"fold-{i}", split={"folds": 2, "fold": i}) for i in range(2)]
    run = ensemble.make(folds[0].path.parent / "both", folds)
    assert follow(["show", str(run.path)], capsys)[0] == ["evaluate", str(run.path)]
    follow(["evaluate", str(run.path), "--split", "val"], capsys)


def test_hints_for_a_run_without_val_and_test_work(
    trained: Callable[..., runs.Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("all", split={"val": 0, "test": 0}, select="last")
    assert follow(["show", str(run.path)], capsys)[0] == ["evaluate", str(run.path), "--split", "train"]


def test_a_run_without_a_model_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(config(tmp_path, plugins=["json"]), fake_store(), StopAfterPolls(1))
    run.weights.unlink()  # as after a kill
    assert main(["show", str(run.path)]) == 0
    assert f"next: cxr-ray train --resume {run.path} --plugins json" in capsys.readouterr().out


def test_the_plugins_of_a_run_are_named(
    trained: Callable[..., runs.Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "plugin_of_next_steps.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    run = trained("with-plugin")
    settings = yaml.safe_load((run.path / "config.yaml").read_text())
    (run.path / "config.yaml").write_text(yaml.safe_dump({**settings, "plugins": ["plugin_of_next_steps"]}))
    first, *_ = follow(["show", str(run.path)], capsys)
    assert first == ["evaluate", str(run.path), "--plugins", "plugin_of_next_steps"]


def test_runs_proposes_only_what_can_be_compared(
    trained: Callable[..., runs.Run], capsys: pytest.CaptureFixture[str]
) -> None:
    one = trained("z-1")
    trained("z-2", "multiclass", CLASSES)
    last = trained("z-3")
    (proposed, *_) = follow(["runs", str(one.path.parent)], capsys)
    assert proposed == ["compare", str(one.path), str(last.path)]
    trained("z-4", "binary", ("Edema",), split={"val": 0, "test": 0}, select="last")
    (proposed, *_) = follow(["runs", str(one.path.parent)], capsys)
    assert proposed[0] == "show"


def test_in_a_job_the_proposed_commands_are_jobs_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What lies on the cluster's storage is read there; what needs no data stays as it is."""
    text = "open the page, or: cxr-ray evaluate /runs/first; cxr-ray train --store /x; cxr-ray models NAME"
    monkeypatch.delenv(machine.IN_JOB, raising=False)
    next_steps.show(text)
    monkeypatch.setenv(machine.IN_JOB, "{}")
    next_steps.show(text)
    here, in_job = capsys.readouterr().out.splitlines()
    assert here == f"next: {text}"
    assert in_job == (
        "next: open the page, or: cxr-ray submit -- evaluate /runs/first; cxr-ray submit -- train --store /x; cxr-ray models NAME"
    )


@pytest.mark.parametrize(("store", "output"), [("/data/shards/x", "/data/shards/runs"), ("s3://ours/x", "/data/runs")])
def test_the_training_that_a_job_proposes_is_one_that_submit_takes(
    store: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(machine.IN_JOB, raising=False)
    assert next_steps.train_on(store) == f"cxr-ray train --store {store}"
    monkeypatch.setenv(machine.IN_JOB, "{}")
    proposed = next_steps.where_it_lies(next_steps.train_on(store))
    assert proposed == f"cxr-ray submit -- train --store {store} --output {output}"
    assert read_job(tuple(shlex.split(proposed)[3:]), tmp_path).words[0] == "train"


def test_what_a_job_proposes_writes_to_what_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A relative path would be one of Ray's copy of the working directory."""
    monkeypatch.delenv(machine.IN_JOB, raising=False)
    for place in ("shards/phantom", str(tmp_path / "shards" / "phantom")):
        raw = tmp_path / f"phantom of {len(place)}"
        assert main(["phantom", str(raw), "--patients", "2", "--size", "32"]) == 0
        proposed = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
        words = shlex.split(proposed.replace("cxr-ray submit -- ", "cxr-ray "))[1:]
        assert words == ["ingest", "phantom", str(raw), place, "--size", "32"]
        monkeypatch.setenv(machine.IN_JOB, "{}")
    assert read_job(tuple(words), tmp_path).words[0] == "ingest"
    assert next_steps.written("row.png", near=Path("/runs/first")) == "/runs/row.png"
