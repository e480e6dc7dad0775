"""`cxr-ray describe`: an image as text."""

from pathlib import Path

import numpy as np
import pytest

from cxr_ray import cli
from cxr_ray.cli.commands.describe import SHADES, ascii_art
from tests.workflows.test_evaluate import write_store


def test_text_gets_brighter_with_the_gray_values() -> None:
    ramp = np.tile(np.linspace(0, 255, 200, dtype=np.uint8), (100, 1))
    lines = ascii_art(ramp, columns=40).split("\n")
    assert len(lines) == 10  # 100 x 200 px in 40 columns of characters twice as high as wide
    assert len(set(lines)) == 1
    levels = [SHADES.index(c) for c in lines[0]]
    assert levels == sorted(levels)
    assert levels[-1] == len(SHADES) - 1
    small = ascii_art(np.full((3, 2), 255, np.uint8), columns=8)
    assert len(small.split("\n")[0]) == 8  # an image of fewer pixels than characters


def test_derived_labels_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_store(tmp_path / "shards", seed=0)
    derive = "{Any: {any: [Edema, Mass]}}"
    page = ["--out", str(tmp_path / "page"), "--no-images"]
    assert cli.main(["describe", str(store.path), "--derive", derive, *page]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["Any"])
    assert line.split()[1] == str(int(((store.index["Edema"] == 1) | (store.index["Mass"] == 1)).sum()))
    assert "Any" in (tmp_path / "page" / "describe.html").read_text()
    assert cli.main(["describe", str(store.path), "--derive", "{Any: {any: [Edma]}}"]) == 2
    assert "unknown label 'Edma' in data.derive.Any; did you mean 'Edema'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--neighbours", "3"], ["--features", "f"], ["--neighbours", "3", "--features", "f", "--row", "3"]]
)
def test_neighbours_need_features_and_nothing_else(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["describe", str(tmp_path), *words]) == 2
    assert "--neighbours" in capsys.readouterr().err
