"""What a training has come to: written and read back the same, and asked by metric."""

from pathlib import Path

import pytest

from cxr_ray.metrics import Value
from cxr_ray.runs import METRIC_COLUMNS, Run
from cxr_ray.training.history import History

LABELS = ("mean", "", "Mass, left", 'a "b", c', "NA")


def values(epoch: int) -> dict[str, list[Value]]:
    held = [Value("auroc", label, 0.1 + epoch / 7, 3, 9) for label in LABELS]
    return {"train": [Value("loss", "", 1 / 3, 3, 9)], "val": held[epoch == 2 :]}


@pytest.fixture
def written(tmp_path: Path) -> tuple[History, Run]:
    history, run = History(), Run(tmp_path)
    for epoch in range(4):
        history.add(epoch, 10 * epoch, values(epoch), run)
    return history, run


def test_it_is_written_as_the_run_reads_it(written: tuple[History, Run]) -> None:
    _, run = written
    table = run.metrics
    assert list(table.columns) == METRIC_COLUMNS
    expected = [
        (epoch, 10 * epoch, part, *one) for epoch in range(4) for part, held in values(epoch).items() for one in held
    ]
    assert list(table.itertuples(index=False, name=None)) == expected


def test_taken_up_again_it_goes_on_as_if_never_left(written: tuple[History, Run], tmp_path: Path) -> None:
    whole, run = written
    text = (tmp_path / "metrics.csv").read_text()
    again = History.until(2, run)  # epoch 3 is trained anew
    assert [again.of(epoch) for epoch in range(4)] == [*(values(epoch) for epoch in range(3)), {}]
    again.add(3, 30, values(3), run)
    assert (tmp_path / "metrics.csv").read_text() == text
    assert all(again.of(epoch) == whole.of(epoch) for epoch in range(4))


def test_a_course_has_none_where_a_metric_is_undefined(written: tuple[History, Run]) -> None:
    history, _ = written
    assert history.course("val/auroc/mean", until=3) == [0.1, 0.1 + 1 / 7, None, 0.1 + 3 / 7]
    assert history.course("val/auroc/macro", until=0) == [0.1]
    assert history.course("val/f1/mean", until=1) == [None, None]


def test_a_run_without_a_file_has_no_history(tmp_path: Path) -> None:
    assert History.until(5, Run(tmp_path)).of(0) == {}
