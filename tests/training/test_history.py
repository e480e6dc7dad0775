"""Metrics of every epoch: written and read back the same, and looked up by name."""

from pathlib import Path

import pytest

from cxr_ray.metrics import Value
from cxr_ray.runs import METRIC_COLUMNS, Run
from cxr_ray.training.history import History

LABELS = ("mean", "", "Mass, left", 'a "b", c', "NA")


def values(epoch: int) -> dict[str, list[Value]]:
    val = [Value("auroc", label, 0.1 + epoch / 7, 3, 9) for label in LABELS]
    return {"train": [Value("loss", "", 1 / 3, 3, 9)], "val": val[epoch == 2 :]}


@pytest.fixture
def written(tmp_path: Path) -> tuple[History, Run]:
    history, run = History(), Run(tmp_path)
    for epoch in range(4):
        history.add(epoch, 10 * epoch, values(epoch), run)
    return history, run


def test_the_run_reads_what_was_written(written: tuple[History, Run]) -> None:
    _, run = written
    table = run.metrics
    assert list(table.columns) == METRIC_COLUMNS
    expected = [
        (epoch, 10 * epoch, part, *value)
        for epoch in range(4)
        for part, of_part in values(epoch).items()
        for value in of_part
    ]
    assert list(table.itertuples(index=False, name=None)) == expected


def test_after_a_resume_the_file_is_the_same(written: tuple[History, Run], tmp_path: Path) -> None:
    whole, run = written
    text = (tmp_path / "metrics.csv").read_text()
    resumed = History.until(2, run)  # epoch 3 is trained again
    assert [resumed.of(epoch) for epoch in range(4)] == [*(values(epoch) for epoch in range(3)), {}]
    resumed.add(3, 30, values(3), run)
    assert (tmp_path / "metrics.csv").read_text() == text
    assert all(resumed.of(epoch) == whole.of(epoch) for epoch in range(4))


def test_a_curve_has_none_where_a_metric_is_undefined(written: tuple[History, Run]) -> None:
    history, _ = written
    assert history.curve("val/auroc/mean", until=3) == [0.1, 0.1 + 1 / 7, None, 0.1 + 3 / 7]
    assert history.curve("val/auroc/macro", until=0) == [0.1]
    assert history.curve("val/f1/mean", until=1) == [None, None]


def test_a_run_without_a_file_has_no_history(tmp_path: Path) -> None:
    assert History.until(5, Run(tmp_path)).of(0) == {}
