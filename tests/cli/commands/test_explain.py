"""`cxr-ray explain`: its words, what it prints and writes, and mistakes, which are one line and leave nothing behind."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ray.cli import main
from cxr_ray.cli.commands import explain
from cxr_ray.errors import UserError
from tests.fakes.explained import store, trained


def run_command(*words: object) -> int:
    return main(["explain", *(str(word) for word in words)])


def test_lists_of_words() -> None:
    assert explain.split_words(["a,b", "c", " d , e"]) == ["a", "b", "c", "d", "e"]
    assert explain.read_rows(["5,9"]) == explain.read_rows(["5", "9"]) == [5, 9]
    assert explain.read_rows(None) is None
    for wrong in (["a"], ["5-9"], ["-1"], [","]):
        with pytest.raises(UserError, match="such as --rows 5,9"):
            explain.read_rows(wrong)


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
    assert any("3 of 3 maps add up to the logit" in line for line in out)
    with np.load(folder / "maps.npz", allow_pickle=False) as found:
        assert set(found.files) == {"rows", "labels", "saliency", "lrp_epsilon"} and len(found["rows"]) == 3
    assert (
        run_command(
            str(out[-1]).split("cxr-ray explain ")[1].replace(" --audit", ""), "--rows", 3, "--methods", "saliency"
        )
        == 0
    )


def test_a_picture_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(store().images([3])[0]).save(tmp_path / "x.png")
    words = ("--label", "Mass", "Edema", "--methods", "saliency", "--out", tmp_path / "out")
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
        (["--audit", "--rows", "3"], "remove --rows"),
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


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(tmp_path / "none") == 2
    assert "is not a run folder" in capsys.readouterr().err
