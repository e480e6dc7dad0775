"""A sweep from its trials to its page: updates while trials run, the bar of a notebook, and a sweep on Ray."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.report import sweep_page
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.workflows import tune as workflow
from tests.fakes import notebook
from tests.fakes.store import fake_store
from tests.fakes.sweep import make_sweep
from tests.fakes.trainings import write_store
from tests.fakes.waiting import until

LABELS = ("Edema", "Mass")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return make_sweep(tmp_path / "s", trials=4, labels=LABELS, epochs=2, failed=(3,))


def assert_ends(body: Any) -> None:
    """`body()` returns within 20 s."""
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [UserError("no space left"), OSError("gone"), ZeroDivisionError("a\nbug")])
def test_a_page_that_cannot_be_written_is_one_warning_and_ends_nothing(
    error: Exception, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Sweep] = []

    def broken(sweep: Sweep) -> Path:
        calls.append(sweep)
        raise error

    monkeypatch.setattr(sweep_page, "write", broken)

    def has_called(times: int) -> bool:
        return len(calls) >= times

    def sweeping() -> None:
        with workflow.updates(lambda sweep: None) as update:
            for count in (1, 2, 3):
                update(sweep)
                until(partial(has_called, count), 10)

    assert_ends(sweeping)
    assert workflow.try_write_page(sweep) is None  # the command continues with its summary
    err = capsys.readouterr().err
    assert len(calls) == 4 and err.count("\n") == 2  # one warning while it ran, one at its end
    assert err.startswith("warning: the page of the sweep could not be written: ")
    assert " ".join(str(error).split()) in err


def test_the_end_does_not_wait_for_an_update_that_hangs(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    started, release = threading.Event(), threading.Event()

    def hanging(sweep: Sweep) -> None:
        started.set()
        release.wait(60)

    monkeypatch.setattr(workflow, "LAST_UPDATE_S", 0.2)

    def sweeping() -> None:
        with workflow.in_background(hanging) as update:
            update(sweep)
            assert started.wait(10)
            update(sweep)  # waits in the queue
            update(sweep)

    assert_ends(sweeping)
    release.set()


def test_a_table_that_cannot_be_drawn_does_not_stop_the_page(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[Sweep] = []
    monkeypatch.setattr(sweep_page, "write", written.append)

    def broken(sweep: Sweep) -> None:
        raise ZeroDivisionError("a bug")

    with workflow.updates(broken) as update:
        update(sweep)
    assert written == [sweep] and capsys.readouterr().err == f"warning: {workflow.TABLE_WARNING}: a bug\n"


def test_a_notebook_shows_a_bar_and_a_table_of_the_trials(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = notebook.install(monkeypatch)
    draw = workflow.trial_progress(lambda line: None)
    draw(sweep)
    draw(sweep)
    bar, table = shown
    assert "s: 4 of 4 trials (100%)" in bar[-1] and "best val/auroc/mean 0." in bar[-1]
    assert len(table) == 2 and table[-1] == sweep.trials_html()


def test_elsewhere_lines_show_how_many_trials_have_ended(sweep: Sweep) -> None:
    lines: list[str] = []
    workflow.trial_progress(lines.append)(sweep)
    assert len(lines) == 1 and lines[0].startswith("s: 4 of 4 trials (100%), best val/auroc/mean 0.")


def test_a_sweep_is_opened_again(sweep: Sweep) -> None:
    assert workflow.load_sweep(str(sweep.path)) == sweep == workflow.load_sweep(sweep)
    with pytest.raises(UserError, match="did you mean 's'"):
        workflow.load_sweep(sweep.path.parent / "S1")


def test_a_sweep_has_its_winner(ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiny trials on Ray: the winner is a run with a table of test, the trials are a table, and the page is there."""
    store = write_store(tmp_path / "shards", fake_store(120, labels=("Edema", "Mass"), size=(32, 32)))
    lines: list[str] = []
    settings: dict[str, Any] = {
        "name": "sweep", "output": str(tmp_path), "data": {"shards": str(store), "split": {"val": 0.25, "test": 0.25}},
        "model": {"name": "lenet"}, "train": {"epochs": 1, "batch_size": 16, "precision": "fp32"},
        "report": {"bootstrap": 0, "rivals": False, "trackers": []},
        "tune": {"trials": 1, "scheduler": "none", "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}}},
    }  # fmt: skip
    found = workflow.tune(cfg.validate(settings), log=lines.append)
    assert len(found.trials) == 2 and found.importance is None and (found.path / "sweep.html").exists()
    best = found.best
    assert best is not None and best.headline()[0] == "test" and list(best.table.index) == ["Edema", "Mass", "mean"]
    assert lines and "finished" in repr(found)
