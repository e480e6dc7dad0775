"""`cxr-ray embed`, a head on the features, and similar images, from the command line."""

from pathlib import Path

import pytest
from PIL import Image

from cxr_ray import cli
from tests.fakes.embedded import make


def test_from_a_run_to_a_head_and_similar_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make(tmp_path)
    run, store, out = str(made.run.path), str(made.store.path), str(tmp_path / "again")
    assert cli.main(["embed", run, store, out]) == 0
    assert "120 rows, 84 features each" in capsys.readouterr().out
    train = ["train", "--store", store, "--data.features", out, "--model", "linear", "--epochs", "1"]
    assert cli.main([*train, "--output", str(tmp_path / "runs"), "--name", "head"]) == 0
    assert cli.main(["evaluate", str(tmp_path / "runs" / "head"), "--bootstrap", "0"]) == 0
    row, picture = str(made.store.index["row"][5]), tmp_path / "similar.png"
    capsys.readouterr()
    similar = ["describe", store, "--features", out, "--neighbours", row, "--top", "3", "--save", str(picture)]
    assert cli.main(similar) == 0
    assert "similarity" in capsys.readouterr().out and Image.open(picture).size[0] > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lenet"], "random weights make no useful features"),
        (["lenet5", "--weights", "imagenet"], "did you mean 'lenet'"),
        (["RUN", "--weights", "imagenet"], "leave --weights and --image-size out"),
        (["RUN", "--batch-size", "0"], "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tmp_path, rows=40)
    words = [str(made.run.path) if word == "RUN" else word for word in words]
    assert cli.main(["embed", words[0], str(made.store.path), str(tmp_path / "out"), *words[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
