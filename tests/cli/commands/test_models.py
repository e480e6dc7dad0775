"""`cxr-ray models`: the table, one model, its layers, and errors."""

import pytest

from cxr_ray import cli
from cxr_ray.registry import MODELS


def output(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert cli.main(["models", *words]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_every_model_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {
        line.split()[0]: line for line in output(capsys).splitlines() if line.startswith((" ", "\t")) and line.split()
    }
    assert {entry.name for entry in MODELS} <= set(lines)
    assert "11,689,512" in lines["resnet18"] and "224 x 224" in lines["resnet18"]
    assert "gray, repeat" in lines["vit_b_16"] and " g c r " in lines["vit_b_16"] and " g c  " in lines["swin_v2_t"]


def test_a_models_layers(capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(capsys, "pneumonia_cnn", "--size", "64", "--outputs", "5", "--stem", "repeat")
    rows = [line.split() for line in shown.splitlines()]
    assert ["features.0", "Conv2d", "16", "x", "64", "x", "64", "448"] in rows
    assert ["classifier.1", "Linear", "64", "262,208"] in rows  # 64 x 8 x 8 = 4,096 into 64
    total = sum(int(row[-1].replace(",", "")) for row in rows if row and row[0].startswith(("features", "classifier")))
    assert f"parameters: {total:,} with 5 outputs, stem repeat" in shown


def test_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(capsys, "googlenet", "--head", "append")
    assert "occlusion, gradcam, lrp_epsilon, lrp_alphabeta" in shown and "--auxiliary" in shown
    assert "[0.5, 0.5]" in shown and "next: cxr-ray models googlenet --size 224" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet19"], "did you mean 'resnet18'"),
        (["--size", "224"], "name it"),
        (["vit_b_16", "--size", "100"], "such as [96, 96]"),
        (["lenet", "--size", "0"], "needs outputs and pixels"),
    ],
)
def test_errors(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(capsys, *words, code=2)
    assert message in shown and len(shown.strip().splitlines()) == 1
