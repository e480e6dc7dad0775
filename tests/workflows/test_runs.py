"""`train`, `resume`, `load_run` and `make_ensemble` from Python, in this process."""

from pathlib import Path

import pytest

from cxr_ray import config as cfg
from cxr_ray.data import store as stores
from cxr_ray.data import store_writer
from cxr_ray.errors import Finished, UserError
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
    run = train(given, log=lines.append)
    assert run.info["status"] == "finished" and lines[0] == f"run: {tmp_path / 'a'}"
    with pytest.raises(Finished):
        train(cfg.load_config(None, **given), log=lines.append)  # type: ignore[arg-type]
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


def test_runs_form_an_ensemble(store: stores.Store, tmp_path: Path) -> None:
    each = [train(settings(store, tmp_path, f"s{seed}", seed), log=lambda line: None) for seed in (0, 1)]
    both = make_ensemble(tmp_path / "both", [each[0], str(each[1].path)])
    assert [member.path.name for member in load_run(both.path).members] == ["s0", "s1"]


def test_anything_else_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="train takes a config or a mapping of settings, not str; load_config"):
        train("preset:demo")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"tran\.epochs|tran is not a setting"):
        train({"tran.epochs": 1})
