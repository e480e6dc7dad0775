"""`cxr-ray explain`: its words, what it prints and writes, and mistakes, which are one line and leave nothing behind."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cxr_ray.cli import main
from cxr_ray.cli.commands import explain
from cxr_ray.errors import UserError
from tests.fakes.explained import store, trained
from tests.report.pages import assert_menu_in_page_order


def run_command(*words: object) -> int:
    return main(["explain", *(str(word) for word in words)])


def test_lists_of_words() -> None:
    assert explain.split_words(["a,b", "c", " d , e"]) == ["a", "b", "c", "d", "e"]
    assert explain.read_rows(["5,9"]) == explain.read_rows(["5", "9"]) == [5, 9]
    assert explain.read_rows(None) is None
    for wrong in (["a"], ["5-9"], ["-1"], [","]):
        with pytest.raises(UserError, match="such as --rows 5,9"):
            explain.read_rows(wrong)


def test_labels_may_be_one_word_and_may_have_commas() -> None:
    known = ["Edema", "Mass", "Mass, left"]
    assert explain.read_labels(["Edema,Mass"], known) == explain.read_labels(["Edema", "Mass"], known) == known[:2]
    assert explain.read_labels(["Mass, left", "Edema"], known) == ["Mass, left", "Edema"]
    assert explain.read_labels(None, known) is None and explain.read_labels(["Edma"], known) == ["Edma"]


def test_options_go_to_the_methods_that_have_them() -> None:
    methods = ["saliency", "lrp_epsilon", "lrp_alphabeta"]
    read = explain.read_options
    assert read(["lrp_epsilon.epsilon=0.01"], methods) == {"lrp_epsilon": {"epsilon": 0.01}}
    assert read(["alpha=3", "beta=2"], methods) == {"lrp_alphabeta": {"alpha": 3, "beta": 2}}
    assert read(["input_rule=zbox"], methods) == {m: {"input_rule": "zbox"} for m in methods[1:]}
    with pytest.raises(UserError, match=r"has an option 'epsilo'; did you mean 'epsilon'"):
        read(["epsilo=1"], methods)
    with pytest.raises(UserError, match=r"lrp_epsilom is not among.*did you mean 'lrp_epsilon'"):
        read(["lrp_epsilom.epsilon=1"], methods)
    with pytest.raises(UserError, match=r"METHOD\.NAME=VALUE"):
        read(["epsilon"], methods)


def test_maps_of_a_class_are_written_below_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("multiclass")
    words = ("--class", "Mass", "--methods", "saliency,lrp_epsilon", "--epsilon", 0.5, "--split", "train", "--limit", 3)
    assert run_command(run.path, *words) == 0
    out = capsys.readouterr().out.splitlines()
    folder = run.path / "explanations" / "train-Mass"
    assert out[-2] == f"page: {folder / 'explain.html'}" and out[-1].startswith("next: ")
    assert any(line.startswith("lrp_epsilon: 3 of 3 maps add up; mean logit ") for line in out)
    with np.load(folder / "maps.npz", allow_pickle=False) as found:
        assert set(found.files) == {"rows", "labels", "saliency", "lrp_epsilon"} and len(found["rows"]) == 3
    assert (
        run_command(
            str(out[-1]).split("cxr-ray explain ")[1].replace(" --audit", ""), "--rows", 3, "--methods", "saliency"
        )
        == 0
    )


def test_maps_of_other_settings_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(trained().path, tmp_path / "run")
    folder = run / "explanations" / "rows"
    words = (run, "--rows", 3, "--methods")
    assert run_command(*words, "saliency") == 0
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run_command(*words, "saliency") == 0  # the same again, in its place
    assert [path.name for path in folder.parent.iterdir()] == ["rows"] and "note:" not in capsys.readouterr().out
    others = (["gradient"], ["saliency", "--label", "all"], ["saliency", "--rows", "3,6"])
    for number, other in enumerate(others, 2):
        assert run_command(run, *([] if "--rows" in other else ["--rows", 3]), "--methods", *other) == 0
        note = f"note: {folder} has results of other settings, which stay; these are in rows-{number}"
        assert note in capsys.readouterr().out.splitlines()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert run_command(*words, "gradient", "--out", folder) == 0  # where the user asks for it
    with np.load(folder / "maps.npz", allow_pickle=False) as found:
        assert "gradient" in found.files


def test_a_picture_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(store().images([3])[0]).save(tmp_path / "x.png")
    words = ("--label", "Mass,Edema", "--methods", "saliency", "--out", tmp_path / "out")
    assert run_command(trained().path, tmp_path / "x.png", *words) == 0
    with np.load(tmp_path / "out" / "maps.npz") as found:
        assert found["labels"].tolist() == ["Mass", "Edema"] and found["rows"].tolist() == [0, 0]
    capsys.readouterr()


def test_teaching_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--figures",
        "filters,features,pooling",
        "--kernel",
        "0,1;-1,0",
        "--pool",
        3,
        "--stride",
        2,
        "--padding",
        1,
    )
    assert run_command(trained().path, *words, "--rows", 3, "--out", tmp_path / "f") == 0
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["features.png", "filters.png", "pooling.png"]
    assert capsys.readouterr().out.count("figure: ") == 3


def test_the_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(trained().path, "--audit", "--split", "train", "--label", "Mass", "--out", tmp_path / "a") == 0
    out = capsys.readouterr().out
    assert "stand out" in out or "stands out" in out
    table = pd.read_csv(tmp_path / "a" / "audit.csv")
    assert {"Mass positive", "view AP", "view PA"} <= set(table["group"])
    page = (tmp_path / "a" / "audit.html").read_text(encoding="utf-8")
    assert_menu_in_page_order(page)
    assert "secret" not in page and "http" not in page.replace("http://www.w3.org", "")
    assert (tmp_path / "a" / "mean_maps-saliency.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "salincy"], "did you mean 'saliency'"),
        (["--label", "Edma"], "did you mean 'Edema'"),
        (["--class", "1"], "by its name, not its number 1"),
        (["--rows", "4"], "has no row 4"),
        (["--rows", "x"], "such as --rows 5,9"),
        (["--rows", "3", "--class", "Mass"], "not both"),
        (["--epsilon", "0.1", "--methods", "saliency"], "has an option 'epsilon'"),
        (["--alpha", "3", "--methods", "lrp_alphabeta"], "alpha - beta must be 1"),
        (["--figures", "filter"], "did you mean 'filters'"),
        (["--figures", "filters", "--kernel", "x"], "cannot read the kernel"),
        (["--figures", "pooling", "--pool", "99"], "window of 99"),
        (["--figures", "pooling", "--pool", "0"], "at least 1 pixel, got 0 and 0"),
        (["--figures", "pooling", "--stride", "0"], "at least 1 pixel, got 2 and 0"),
        (["--figures", "filters", "--methods", "saliency"], "draws teaching figures without maps; remove --methods"),
        (["--audit", "--rows", "3"], "remove --rows"),
        (["--audit", "--boxes", "stored"], "remove --boxes"),
        (["--masks", "x.csv"], "--masks belongs to --audit"),
        (["--pool", "3"], "--pool belongs to --figures"),
        (["--label", "all", "Mass"], "`all` stands alone"),
        (["--audit", "--label", "Edma"], "did you mean 'Edema'"),
        (["--audit", "--masks", "nowhere.csv"], "nowhere.csv"),
        (["--boxes", "stored"], "has no stored boxes"),
        (["--scale", "0"], "above 0"),
        (["nowhere.png"], "no image file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(trained().path, *words, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())


def test_a_folder_of_someone_else_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert run_command(trained().path, "--audit", "--out", tmp_path) == 2
    shown = capsys.readouterr()
    assert "exists and was not written by this command" in shown.err and "auditing" not in shown.out
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_urls_are_not_taken_for_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command("s3://bucket/run") == run_command(trained().path, "--out", "s3://bucket/out") == 2
    error = capsys.readouterr().err
    assert "not at s3://bucket/run;" in error and "not at s3://bucket/out;" in error and not list(tmp_path.iterdir())


def test_plugins_are_imported_only_if_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained().path, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "plugins": ["plugin_of_test_explain"]}))
    (tmp_path / "plugin_of_test_explain.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    words = (run, "--limit", 1, "--methods", "saliency")
    assert run_command(*words) == 2
    assert "add --plugins plugin_of_test_explain" in capsys.readouterr().err
    assert "plugin_of_test_explain" not in sys.modules
    assert run_command(*words, "--plugins", "plugin_of_test_explain") == 0
    assert "plugin_of_test_explain" in sys.modules


def test_weights_in_a_file_are_explained_on_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is suggested next does not need a store."""
    Image.fromarray(store().images([3])[0]).save(tmp_path / "x.png")
    weights = shutil.copy(trained().weights, tmp_path / "model.safetensors")
    assert run_command(weights, tmp_path / "x.png", "--methods", "saliency") == 0
    assert capsys.readouterr().out.endswith("next: open the page in a browser\n")
    assert (tmp_path / "model-explanations" / "pictures" / "explain.html").is_file()


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(tmp_path / "none") == 2
    assert "is not a run folder" in capsys.readouterr().err
