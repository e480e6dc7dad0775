"""The metrics of an evaluation as text."""

import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ray.cli.metric_tables import metric_table, overall_line
from tests.evaluation.example_runs import example_run

VALUES = [
    {"metric": "positives", "label": "Edema", "value": 1234.0},
    {"metric": "recall", "label": "Edema", "value": 0.81249, "low": 0.7, "high": 0.9},
    {"metric": "recall", "label": "mean", "value": 0.5},
    {"metric": "accuracy", "label": "", "value": 0.75, "low": 0.7, "high": 0.8},
    {"metric": "hamming", "label": "", "value": 0.125},
]


def test_counts_are_whole_metrics_have_three_digits_and_the_undefined_a_dash() -> None:
    head, edema, mass, mean = metric_table(VALUES, ["Edema", "Mass"])
    assert [row[0] for row in (head, edema, mass, mean)] == ["label", "Edema", "Mass", "mean"]
    assert edema[head.index("positives")] == "1,234" and edema[head.index("recall")] == "0.812"
    assert set(mass[1:]) == {"-"} and mean[head.index("recall")] == "0.500"
    assert len(metric_table(VALUES, ["Edema"])) == 2  # the mean of one label is that label
    _, with_interval, *_ = metric_table(VALUES, ["Edema", "Mass"], intervals=True)
    assert with_interval[head.index("recall")] == "0.812\n0.700-0.900"


@pytest.mark.parametrize(
    ("task", "line"),
    [
        ("multilabel", "accuracy 0.750 (0.700 to 0.800), hamming 0.125"),
        ("binary", "accuracy 0.750 (0.700 to 0.800)"),
    ],
)
def test_the_metrics_over_all_labels_are_one_line(task: str, line: str) -> None:
    assert overall_line(VALUES, task) == line


def test_showing_a_run_loads_no_torch(tmp_path: Path) -> None:
    """It takes seconds to load, and saved predictions need none."""
    run = example_run(tmp_path, "one")
    code = f"import sys; from cxr_ray import cli; cli.main(['show', {str(run.path)!r}]); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "False"
