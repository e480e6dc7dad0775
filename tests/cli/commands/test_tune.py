"""What `cxr-ray tune` shows: lines and a live table that nothing breaks, the trials, what the win is worth."""

import io
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cxr_ray.cli.commands import tune as command
from cxr_ray.errors import UserError
from cxr_ray.report import sweep_page
from cxr_ray.tuning import ranking
from cxr_ray.tuning.sweep import Sweep
from tests.fakes.sweep import make_sweep
from tests.fakes.waiting import until

LABELS = ("Edema", "Mass")


class Terminal(io.StringIO):
    """A stream that says that someone looks at it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return make_sweep(tmp_path / "s", trials=4, labels=LABELS, epochs=2, failed=(3,))


def ends(body: Any) -> None:
    """`body()` comes to an end: a hang would be this test's own."""
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


# While trials run


@pytest.mark.parametrize("error", [UserError("no space left"), OSError("gone"), ZeroDivisionError("a\ndefect")])
def test_a_page_that_cannot_be_drawn_is_told_once_and_ends_nothing(
    error: Exception, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []

    def broken(sweep: Sweep) -> Path:
        drawn.append(sweep)
        raise error

    monkeypatch.setattr(sweep_page, "write", broken)

    def sweeping() -> None:
        with command.shown() as (_, watch):
            for count in (1, 2, 3):
                watch(sweep)
                until(lambda count=count: len(drawn) >= count, 10)

    ends(sweeping)
    assert command.page_of(sweep) is None  # nor does it end what the verb has left to say
    told = capsys.readouterr().err
    assert len(drawn) == 4 and told.count("\n") == 2  # once while it ran, once at its end
    assert told.startswith("warning: the page of the sweep could not be written: ")
    assert " ".join(str(error).split()) in told


def test_the_end_does_not_wait_for_a_drawing_that_hangs(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def hanging(sweep: Sweep) -> None:
        begun.set()
        let_go.wait(60)

    monkeypatch.setattr(command, "LAST_S", 0.2)

    def sweeping() -> None:
        with command._beside(hanging) as watch:
            watch(sweep)
            assert begun.wait(10)
            watch(sweep)  # the next one waits already
            watch(sweep)

    ends(sweeping)
    let_go.set()


def test_a_line_is_text_on_a_terminal_too(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path or an error may hold what Rich would read as markup; it raised within Ray's callback."""
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "200")
    with command.shown() as (log, _):
        log("trial 0003  failed: [/bold] of [red]x :smile: 3")
    assert "trial 0003  failed: [/bold] of [red]x :smile: 3" in out.getvalue()


# The table


def shown(sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that `say_trials` tells."""
    monkeypatch.setenv("COLUMNS", "220")
    command.print_trials(sweep)
    return capsys.readouterr().out.splitlines()


def test_each_trial_has_a_row_and_each_failure_a_reason(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(sweep, capsys, monkeypatch)
    assert lines[0].strip() == "s: 4 of 4 trials ended"
    rows = {line.split()[0]: line for line in lines if line.split() and line.split()[0].isdigit()}
    assert set(rows) == {"0000", "0001", "0002", "0003"} and "(as written)" in rows["0000"]
    for trial in sweep.trials:
        assert trial.status in rows[trial.name] and f"{trial.epochs}/2" in rows[trial.name]
        assert f"{trial.values['val/auroc/mean']:.4g}" in rows[trial.name]
    assert lines[-1] == (
        "failed: trial 0003: the loss of step 41 (epoch 1) is not a number: the training has diverged: lower optim.lr"
    )


def test_epochs_are_of_those_that_the_trial_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"train.epochs": {"choice": [3]}, "optim.lr": {"choice": [1e-3]}}
    sweep = make_sweep(tmp_path / "s", trials=1, labels=LABELS, epochs=2, failed=(), base=False, space=space)
    assert any("0000" in line and " 2/3 " in line for line in shown(sweep, capsys, monkeypatch))


def test_of_several_objectives_the_trials_that_none_beats_are_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = ["val/auroc/mean", "val/precision/mean"]
    sweep = make_sweep(tmp_path / "s", trials=6, labels=LABELS, epochs=2, failed=(), metric=metric)
    lines = shown(sweep, capsys, monkeypatch)
    assert "pareto" in lines[2]
    marked = {int(line.split()[0]) for line in lines if line.strip()[:1] == "0" and " * " in line}
    assert marked == ranking.front(sweep.ranked(), ["max", "max"]) and 0 < len(marked) < 6


def test_a_knob_of_a_label_with_brackets_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ("Edema", "[/x]")
    space = {"data.uncertain.[/x]": {"choice": ["ones"]}}
    sweep = make_sweep(tmp_path / "s", trials=1, labels=labels, epochs=1, failed=(), base=False, space=space)
    command.print_trials(sweep)
