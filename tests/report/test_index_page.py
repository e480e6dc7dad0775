"""The index of a run's reports."""

import json
from pathlib import Path

import pytest

from cxr_ray.report import index_page, run_page
from cxr_ray.runs import evaluation_files
from tests.fakes.figures import skip_drawing
from tests.report.test_run_page import Page, evaluation_of, make_run, predictions


def test_it_lists_every_evaluation_with_its_headline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_drawing(monkeypatch)
    labels = ["<b>Edema</b>", "Mass"]
    run = make_run(tmp_path / "a-run", labels, "multilabel", rows=60)
    run_page.write(run, "test")
    results = run.evaluation("test")
    (run.path / "evaluation-test.json").write_text(
        json.dumps({**results, "part": "test", "evaluated": "2026-01-31T12:34:56Z"})
    )
    table = predictions(labels, "multilabel", 40, 2.0, 9)
    files = evaluation_files.of_external(run, "a & b", "1" * 64, by="study")
    files.results.parent.mkdir(parents=True)
    about = {
        "part": "a & b",
        "by": "study (max of its images)",
        "external": {"store": "a & b", "fingerprint": "1" * 64},
    }
    other = {**evaluation_of(table, labels, "multilabel"), **about}
    files.results.write_text(json.dumps(other))  # its page is gone
    page = Page(index_page.write(run).read_text(encoding="utf-8"))
    assert [link for link in page.loads if not link.startswith(("data:", "#"))] == ["report.html"]
    assert "Test part 2026-01-31 12:34 60 images" in page.text
    assert "External data: a & b, by study its page is gone" in page.text and "40 studies" in page.text
    for found in (results, other):
        value = next(v for v in found["values"] if (v["metric"], v["label"]) == ("auroc", "mean"))
        assert f"{value['value']:.3f} {value['low']:.2f} to {value['high']:.2f}" in page.text
    assert "b" not in page.tags and "patient-secret" not in page.text
