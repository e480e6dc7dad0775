"""Letters in corners: drawn ones are found where they are, anatomy alone is not taken for them, and real X-rays keep the rates told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from cxr_ray.cli.commands.describe import describe
from cxr_ray.data import store_writer
from cxr_ray.datasets.phantom import generate
from cxr_ray.imaging import burned_in

BY_EYE = {6, 7, 24, 33, 34, 36, 37, 38, 43, 60, 61, 62, 65, 67}
"""Of the 68 X-rays from the web, in the order of their names: those with letters in a corner."""


def soft(height: int = 224, width: int = 224, seed: int = 0) -> np.ndarray:
    """Smooth light and dark, as large as lungs and as ribs."""
    rng = np.random.default_rng(seed)
    grid = Image.fromarray(rng.integers(20, 200, (9, 9), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.asarray(grid)


def lettered(picture: np.ndarray, at: tuple[float, float], text: str = "L", share: float = 0.07) -> np.ndarray:
    image = Image.fromarray(picture)
    font = ImageFont.load_default(size=max(8, share * min(image.size)))
    ImageDraw.Draw(image).text((at[0] * image.width, at[1] * image.height), text, fill=255, font=font)
    return np.asarray(image)


@pytest.mark.parametrize("at", [(0.05, 0.05), (0.85, 0.05), (0.05, 0.85), (0.85, 0.85)])
@pytest.mark.parametrize("size", [(224, 224), (320, 256), (512, 640)])
def test_letters_in_a_corner_are_found(at: tuple[float, float], size: tuple[int, int]) -> None:
    dark = (soft(*size) * 0.5).astype(np.uint8)
    assert burned_in.letters(dark) == 0
    assert burned_in.letters(lettered(dark, at)) >= 1
    assert burned_in.letters(lettered(dark, (at[0] * 0.8, at[1]), "NAME")) >= 3


def test_what_is_no_letter_in_a_corner_is_not_counted() -> None:
    dark = (soft() * 0.5).astype(np.uint8)
    assert burned_in.letters(lettered(dark, (0.45, 0.45))) == 0  # in the middle
    line = dark.copy()
    line[:200, 20:23] = 250  # a wire: far higher than a letter
    block = dark.copy()
    block[:60, :60] = 250  # a bright corner: wider than a stroke
    faint = lettered(np.full((224, 224), 200, np.uint8), (0.05, 0.05))
    for picture in (line, block, faint, np.zeros((224, 224), np.uint8), np.zeros((16, 16), np.uint8)):
        assert burned_in.letters(picture) == 0


def test_a_store_is_looked_at_evenly_and_told_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    plain = np.stack([(soft(seed=i) * 0.4).astype(np.uint8) for i in range(20)])
    marked = plain.copy()
    for row in (4, 9):
        marked[row] = lettered(plain[row], (0.8, 0.05), "AB")
    table = pd.DataFrame({"A": np.arange(20.0) % 2})
    store = store_writer.write(tmp_path / "s", marked, table, labels=["A"], task="binary")
    found = burned_in.look(store)
    assert found.rows.tolist() == [4, 9] and found.looked_at == 20
    assert burned_in.look(store, most=5).looked_at == 5
    describe(str(tmp_path / "s"))
    assert "warning: letters seem to be burnt into a corner of 2 of 20 pictures looked at, such as rows 4, 9:" in " ".join(capsys.readouterr().out.split())  # fmt: skip
    clean = store_writer.write(tmp_path / "clean", plain, table, labels=["A"], task="binary")
    assert burned_in.look(clean).told() is None


def test_the_phantoms_letters_of_the_side_are_found(tmp_path: Path) -> None:
    root = generate.write(tmp_path, patients=6, size=224)
    pictures = [np.asarray(Image.open(file).convert("L")) for file in sorted((root / "images").iterdir())]
    assert np.mean([burned_in.letters(picture) > 0 for picture in pictures]) > 0.8


@pytest.mark.parametrize("size", [224, 320])
def test_the_rates_on_real_x_rays_are_those_told(shared_data: Path, size: int) -> None:
    files = sorted((shared_data / "covid").iterdir())
    found = {
        number
        for number, file in enumerate(files)
        if burned_in.letters(np.asarray(Image.open(file).convert("L").resize((size, size), Image.Resampling.BILINEAR)))
    }
    assert len(files) == 68 and len(found & BY_EYE) >= 13 and not found - BY_EYE
