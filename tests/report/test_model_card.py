"""The model card of an export: the run's own numbers, and text that Markdown shows as it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from cxr_ray.report import model_card
from cxr_ray.report.model_card import ExportedFile
from tests.evaluation.example_runs import LABELS, example_run

ABOUT: dict[str, Any] = {
    "task": "multilabel",
    "labels": LABELS,
    "input": {"dtype": "uint8", "shape": ["N", 96, 80]},
    "preprocessing": [{"image_size": [64, 64], "mean": 0.5, "deviation": 0.2}],
    "decoding": {"size": [96, 80], "aspect": "pad", "depth": 8, "exact_jpeg": False},
    "weights_sha256": ["abc"],
    "versions": {"cxr_ray": "1.2"},
}
FILE = ExportedFile("model.onnx", "onnx", 12345, "f00", 3e-7, "32 images of the run's store")


def evaluated(run: Any) -> dict[str, Any]:
    """A small evaluation of test, written to the run."""
    values = [
        {"metric": metric, "label": label, "value": 0.1 + i / 10, "low": 0.05, "high": 0.9, "positives": 3, "rows": 9}
        for i, label in enumerate([*LABELS, "mean"])
        for metric in ("recall", "auroc")
    ]
    body = {
        "part": "test", "task": "multilabel", "labels": LABELS, "rows": 1234, "patients": 77, "values": values,
        "interval": {"by": "patient", "resamples": 1000},
        "groups": [{"feature": "sex", "groups": [{"category": "F", "rows": 600, "values": [{**values[-1], "value": 0.777}]}]}],
    }  # fmt: skip
    (run.path / "evaluation-test.json").write_text(json.dumps(body))
    points = {label: {"threshold": 0.25, "recall": 0.9, "chosen": "recall of 0.9"} for label in LABELS}
    operating = {"rule": "recall=0.9", "labels": points, "measured_on": {"rows": 321}}
    (run.path / "thresholds.json").write_text(json.dumps(operating))
    return body


def card(run: Any, **about: Any) -> str:
    return model_card.markdown(run, {**ABOUT, **about}, file=FILE, architectures=[{"parameters": 4321}])


def test_a_card_has_the_runs_results_intervals_groups_and_operating_points(tmp_path: Path) -> None:
    run = example_run(tmp_path, "one")
    evaluated(run)
    text = card(run)
    assert "1,234 images of 77 patients. Intervals of 95% by patient, 1,000 resamples" in text
    assert f"| {LABELS[1]} | 0.200 (0.05 to 0.90) | 0.200 (0.05 to 0.90) | – |" in text
    assert "| sex | F | 600 | – | 0.777 (0.05 to 0.90) | – |" in text
    assert "Rule: recall=0.9." in text and "those on val (321 images)" in text
    assert f"| {LABELS[0]} | 0.250 | 0.900 | – | recall of 0.9 |" in text


def test_a_card_of_a_head_names_the_network_of_its_features(tmp_path: Path) -> None:
    run = example_run(tmp_path, "one")
    assert "features" not in card(run)
    run.update(embedder={"model": "mobilenet_v2", "weights": "0ddba11"})
    assert "| features | pooled, of mobilenet_v2; sha256 of its weights without the head: 0ddba11 |" in card(run)


def test_a_card_says_what_the_file_takes_and_what_comes_before(tmp_path: Path) -> None:
    text = card(example_run(tmp_path, "one"))
    assert "`images` [N, 96, 80], uint8, black 0 and white 255" in text
    assert "12,345 bytes" in text and "| sha256 | f00 |" in text and "largest difference 3.0e-07" in text
    assert "resized to 96 x 80 pixels, with black borders that preserve its aspect ratio" in text
    assert "(64 x 64 pixels, bilinear, antialiased)" in text
    assert "| weights | 4,321 |" in text
    deep = card(
        example_run(tmp_path, "deep"),
        input={"dtype": "float32", "shape": ["N", 96, 80]},
        decoding={**ABOUT["decoding"], "depth": 16},
    )
    assert "float32 from 0 (black) to 255 (white)" in deep and "at 16 bits per pixel and divided by 257" in deep


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_a_card_warns_of_medical_use_and_of_code_in_a_file(tmp_path: Path, form: str) -> None:
    file = ExportedFile(f"m.{form}", form, 1, "f", 0.0, "x")
    text = model_card.markdown(example_run(tmp_path, "one"), ABOUT, file=file, architectures=[{"parameters": 1}])
    assert "**For research and teaching only. Not a medical device:**" in text
    assert ("Open only files that you trust" in text) == (form == "pt2")
    assert f'"m.{form}"' in text


def test_a_run_that_was_not_evaluated_says_so(tmp_path: Path) -> None:
    run = example_run(tmp_path, "one")
    (run.path / "evaluation-test.json").unlink()
    text = card(run)
    assert "## Results\n\nNone: the run was not evaluated" in text and "## Operating points\n\nNone" in text


def test_names_cannot_break_tables(tmp_path: Path) -> None:
    run = example_run(tmp_path, "one")
    run.update(warnings=["a | b\n<script> *x*"])
    text = card(run, labels=["a|b", "<i>"])
    assert "float32 [N, 2]: a\\|b, \\<i>" in text and "- a \\| b \\<script> \\*x\\*" in text
