"""`cxr-ray describe`: an image as text."""

from pathlib import Path

import numpy as np
import pytest

from cxr_ray import cli
from cxr_ray.cli.commands.describe import SHADES, ascii_art
from tests.fakes.study_store import write_store


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


def test_one_image_by_its_name_with_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_store(tmp_path / "shards", seed=0)
    record = store.index.iloc[5]
    outputs = []
    for name in (str(record["row"]), record["image"], record["image"].rpartition("/")[2]):
        assert cli.main(["describe", str(store.path), "--row", name, "--save", str(tmp_path / "x.png")]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in outputs[0].splitlines() if len(line.split()) > 1}
    assert (
        lines["path"] == record["image"] and lines["patient"] == record["patient"] and lines["study"] == record["study"]
    )
    assert lines["row"] == str(record["row"])
    for label in store.labels:
        assert lines[label] == ("positive" if record[label] == 1 else "negative")
    assert cli.main(["describe", str(store.path), "--row", "nothing"]) == 2
    assert "no image is called 'nothing'" in capsys.readouterr().err


def test_rows_and_labels_of_a_run_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_store(tmp_path / "shards", seed=0)
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{shards: {store.path}, labels: [Mass], filters: [\"view == 'PA'\"]}}\n")
    assert cli.main(["describe", "-c", str(config), "--out", str(tmp_path / "d")]) == 0
    rows = int((store.index["view"] == "PA").sum())
    out = capsys.readouterr().out
    assert f"as a run selects its rows and labels: {rows} of {len(store)} images, 1 labels" in out
    assert f"{rows} of {len(store)} images" in (tmp_path / "d" / "describe.html").read_text()
    assert cli.main(["describe", str(store.path), "--labels", "pair"]) == 0
    out = capsys.readouterr().out
    assert "chosen labels, without cleaning" in out and "Tubes" not in out
    assert cli.main(["describe", str(store.path), "--labels", "par"]) == 2
    assert "did you mean 'pair'" in capsys.readouterr().err


def test_a_grid_of_augmented_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_store(tmp_path / "shards", seed=0)
    file = tmp_path / "new" / "seen.png"
    assert cli.main(["describe", str(store.path), "--augmented", "--save", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG") and f"augmented: {file}" in capsys.readouterr().out
    for words, message in (
        (["--augmented", "--row", "7"], "give only one"),
        (["--save", "x.png"], "--save writes one picture"),
    ):
        assert cli.main(["describe", str(store.path), *words]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["describe", "--augmented"]) == 2
    assert "give the folder of a store, or -c" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--neighbours", "3"], ["--features", "f"], ["--neighbours", "3", "--features", "f", "--row", "3"]]
)
def test_neighbours_need_features_and_nothing_else(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["describe", str(tmp_path), *words]) == 2
    assert "--neighbours" in capsys.readouterr().err
