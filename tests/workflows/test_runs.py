"""`train`, `resume`, `load_run` and `make_ensemble` from Python, in this process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxr_ray import cli
from cxr_ray import config as cfg
from cxr_ray.data import store as stores
from cxr_ray.data import store_writer
from cxr_ray.errors import Finished, UserError
from cxr_ray.inference.loading import load_model, load_predictor
from cxr_ray.workflows.evaluations import evaluate
from cxr_ray.workflows.runs import load_run, make_ensemble, resume, train
from tests.fakes.store import fake_store

PLUGIN = "from cxr_ray.models.lenet import *\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.Store:
    fake = fake_store(40)
    table = fake.index.drop(columns=["mean", "variance"])
    return store_writer.write(tmp_path_factory.mktemp("runs") / "shards", fake.pixels, table, fake.info)


def settings(store: stores.Store, output: Path, name: str, seed: int = 0) -> dict[str, object]:
    return {"data": {"shards": store, "split": {"val": 0.25}}, "model.name": "lenet", "train.epochs": 1, "report.trackers": [], "output": output, "name": name, "seed": seed}  # fmt: skip


def test_a_config_and_a_mapping_train_the_same_run(store: stores.Store, tmp_path: Path) -> None:
    lines: list[str] = []
    given = settings(store, tmp_path, "a")
    run = train({**given, "tune.trials": 3}, log=lines.append)
    assert lines.pop(0).startswith("note: the tune section is ignored") and run.config.tune == cfg.Tune()
    assert run.info["status"] == "finished" and lines[0] == f"run: {tmp_path / 'a'}"
    with pytest.raises(Finished):
        train(cfg.load_config(None, **given), log=lines.append)
    with pytest.raises(Finished):
        resume(run.path)


def test_resume_continues_an_unfinished_run_in_a_moved_folder(store: stores.Store, tmp_path: Path) -> None:
    run = train(settings(store, tmp_path, "a"), log=lambda line: None)
    run.update(status="stopped")
    moved = (tmp_path / "elsewhere").resolve()
    moved.mkdir()
    run.path.rename(moved / "b")
    again = resume(moved / "b", log=lambda line: None)
    assert again.path == moved / "b" and again.info["status"] == "finished"


def test_plugins_are_loaded_and_recorded(store: stores.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugin_of_test_runs.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    run = train(settings(store, tmp_path, "a"), plugins=["plugin_of_test_runs"], log=lambda line: None)
    assert run.config.plugins == ["plugin_of_test_runs"]
    with pytest.raises(UserError, match="cannot import 'none_such'"):
        load_run(run.path, plugins=["none_such"])


def test_the_plugins_of_a_run_are_named_again_before_its_model_is_built(
    store: stores.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plugin_of_test_runs.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    run = train(settings(store, tmp_path, "b"), plugins=["plugin_of_test_runs"], log=lambda line: None)
    uses: list[Callable[..., Any]] = [resume, evaluate, load_model, load_predictor]
    commands = [["evaluate", str(run.path), "--bootstrap", "0"], ["train", "--resume", str(run.path)]]
    for use in uses:
        monkeypatch.delitem(sys.modules, "plugin_of_test_runs", raising=False)  # as in a new process
        with pytest.raises(
            UserError, match=r"made with the plugins plugin_of_test_runs, .*plugins=\['plugin_of_test_runs'\]"
        ):
            use(run)
        assert "plugin_of_test_runs" not in sys.modules
    for command in commands:
        monkeypatch.delitem(sys.modules, "plugin_of_test_runs", raising=False)
        assert cli.main(command) == 2 and "add --plugins plugin_of_test_runs" in capsys.readouterr().err
    assert load_model(run, plugins=["plugin_of_test_runs"]).spec.outputs == len(run.info["labels"])
    again = ["config", "-c", str(run.path / "config.yaml")]
    assert cli.main(again) == 2 and "belongs to a run with plugins" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"plugins=\['plugin_of_test_runs'\] in Python"):
        cfg.load_config(run.path / "config.yaml")
    assert cli.main([*again, "--plugins", "plugin_of_test_runs"]) == 0
    for command in commands:
        monkeypatch.delitem(sys.modules, "plugin_of_test_runs", raising=False)
        finished = 2 if "--resume" in command else 0
        assert cli.main([*command, "--plugins", "plugin_of_test_runs"]) == finished
    assert "the run b in" in capsys.readouterr().err  # it is finished
    assert cli.main(["train", "--resume", str(run.path), "--plugins", "json", "--lr", "1"]) == 2
    assert "which optim.lr cannot change" in capsys.readouterr().err


def test_runs_form_an_ensemble(store: stores.Store, tmp_path: Path) -> None:
    each = [train(settings(store, tmp_path, f"s{seed}", seed), log=lambda line: None) for seed in (0, 1)]
    both = make_ensemble(tmp_path / "both", [each[0], str(each[1].path)])
    assert [member.path.name for member in load_run(both.path).members] == ["s0", "s1"]


def test_anything_else_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="train takes a config or a mapping of settings, not str; load_config"):
        train("preset:demo")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"tran\.epochs|tran is not a setting"):
        train({"tran.epochs": 1})
