"""The names of the files of evaluations."""

import itertools
import json
from pathlib import Path

from cxr_ray import runs
from cxr_ray.runs import evaluation_files

PARTS = ("train", "val", "test")


def save(files: evaluation_files.EvaluationFiles, **about: object) -> None:
    files.results.parent.mkdir(parents=True, exist_ok=True)
    files.results.write_text(json.dumps({"values": [], **about}))


def test_each_evaluation_has_names_of_its_own_and_those_of_earlier_versions_stay(tmp_path: Path) -> None:
    run = runs.Run(tmp_path)
    kinds = list(itertools.product(PARTS, ("image", "study"), (None, 0, 12)))
    files = [evaluation_files.of_part(run, part, by=by, epoch=epoch) for part, by, epoch in kinds]
    names = [(file.results.name, file.page.name) for file in files]
    assert len({results for results, _ in names}) == len({page for _, page in names}) == len(kinds)
    assert ("evaluation-test.json", "report.html") in names
    assert ("evaluation-test-by-study.json", "report-by-study.html") in names
    assert ("evaluation-val.json", "report-val.html") in names
    for file, (part, by, epoch) in zip(files, kinds, strict=True):
        save(file, part=part, by=by, epoch=epoch)
    found = list(evaluation_files.every(run))
    assert {file for file, _ in found} == set(files)
    assert [results["part"] for _, results in found] == ["test"] * 6 + ["val"] * 6 + ["train"] * 6
    assert found[0][0].page.name == "report.html"
    assert all(files[kinds.index((r["part"], r["by"], r["epoch"]))] == file for file, r in found)


def test_stores_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    run = runs.Run(tmp_path)
    one, two = "1" * 64, "2" * 64
    first = evaluation_files.of_external(run, "my data", one)
    assert first.results == tmp_path / "external" / "my_data" / "evaluation.json"
    save(first, external={"fingerprint": one}, by="image")
    assert evaluation_files.of_external(run, "my data", one) == first  # a repetition replaces its own
    second = evaluation_files.of_external(run, "my data", two)
    assert second.results.parent.name == "my_data-222222222222"
    by_study = evaluation_files.of_external(run, "my data", one, by="study")
    assert by_study.results.parent.name == "my_data-by-study"
    save(by_study, external={"fingerprint": one}, by="study (max of its images)")
    assert evaluation_files.of_external(run, "my data", one, by="study") == by_study
    # A store that is called as another one's folder by study.
    third = evaluation_files.of_external(run, "my data-by-study", one)
    assert third.results.parent.name == "my_data-by-study-111111111111"
    assert evaluation_files.of_external(run, "my data", one, epoch=0).results.parent.name == "my_data-epoch-0000"


def test_other_files_are_no_evaluations(tmp_path: Path) -> None:
    (tmp_path / "evaluation-test.json").write_text("{")
    (tmp_path / "evaluation-val.json").write_text("[]")
    assert list(evaluation_files.every(runs.Run(tmp_path))) == []
