"""`cxr-ray tune`: log lines, the live table and page, and the final table of the trials."""

import io
import sys
from pathlib import Path

import pytest

from cxr_ray.cli.commands import tune as command
from cxr_ray.tuning import ranking
from cxr_ray.tuning.sweep import Sweep
from tests.fakes.sweep import make_sweep

LABELS = ("Edema", "Mass")


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return make_sweep(tmp_path / "s", trials=4, labels=LABELS, epochs=2, failed=(3,))


# While trials run


def test_a_log_line_is_not_read_as_markup(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path or an error may contain brackets. As markup they raised an exception in Ray's callback."""
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "200")
    with command.show_progress() as (log, _):
        log("trial 0003  failed: [/bold] of [red]x :smile: 3")
    assert "trial 0003  failed: [/bold] of [red]x :smile: 3" in out.getvalue()


# The table


def printed(sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that `print_trials` prints."""
    monkeypatch.setenv("COLUMNS", "220")
    command.print_trials(sweep)
    return capsys.readouterr().out.splitlines()


def test_each_trial_has_a_row_and_each_failure_a_reason(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(sweep, capsys, monkeypatch)
    assert lines[0].strip() == "s: 4 of 4 trials (100%)"
    rows = {line.split()[0]: line for line in lines if line.split() and line.split()[0].isdigit()}
    assert set(rows) == {"0000", "0001", "0002", "0003"} and "(base)" in rows["0000"]
    for trial in sweep.trial_records:
        assert trial.status in rows[trial.name] and f"{trial.epochs}/2" in rows[trial.name]
        assert f"{trial.values['val/auroc/mean']:.4g}" in rows[trial.name]
    assert lines[-1] == (
        "failed: trial 0003: the loss of step 41 (epoch 1) is not a number: the training has diverged: lower optim.lr"
    )


def test_epochs_are_shown_of_those_of_the_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"train.epochs": {"choice": [3]}, "optim.lr": {"choice": [1e-3]}}
    sweep = make_sweep(tmp_path / "s", trials=1, labels=LABELS, epochs=2, failed=(), base=False, space=space)
    assert any("0000" in line and " 2/3 " in line for line in printed(sweep, capsys, monkeypatch))


def test_the_pareto_front_of_several_objectives_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = ["val/auroc/mean", "val/precision/mean"]
    sweep = make_sweep(tmp_path / "s", trials=6, labels=LABELS, epochs=2, failed=(), metric=metric)
    lines = printed(sweep, capsys, monkeypatch)
    assert "pareto" in lines[2]
    marked = {int(line.split()[0]) for line in lines if line.strip()[:1] == "0" and " * " in line}
    assert marked == ranking.pareto_front(sweep.ranked(), ["max", "max"]) and 0 < len(marked) < 6


def test_a_setting_with_brackets_is_not_read_as_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ("Edema", "[/x]")
    space = {"data.uncertain.[/x]": {"choice": ["ones"]}}
    sweep = make_sweep(tmp_path / "s", trials=1, labels=labels, epochs=1, failed=(), base=False, space=space)
    command.print_trials(sweep)
