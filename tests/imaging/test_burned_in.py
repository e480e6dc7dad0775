"""Letters burned into corners: synthetic ones are found, anatomy is not mistaken for them, and real X-rays keep the documented rates."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont

from cxr_ray.cli.commands.describe import describe
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.phantom import generate
from cxr_ray.imaging import burned_in

LETTERED = {6, 7, 24, 33, 34, 36, 37, 38, 43, 60, 61, 62, 65, 67}
"""Positions, sorted by name, of the X-rays from the web that have letters in a corner according to a human reader."""


def soft_texture(height: int = 224, width: int = 224, seed: int = 0) -> np.ndarray:
    """Smooth light and dark areas of the size of lungs and ribs."""
    rng = np.random.default_rng(seed)
    grid = Image.fromarray(rng.integers(20, 200, (9, 9), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.asarray(grid)


def with_letters(gray: np.ndarray, at: tuple[float, float], text: str = "L", share: float = 0.07) -> np.ndarray:
    image = Image.fromarray(gray)
    font = ImageFont.load_default(size=max(8, share * min(image.size)))
    ImageDraw.Draw(image).text((at[0] * image.width, at[1] * image.height), text, fill=255, font=font)
    return np.asarray(image)


@pytest.mark.parametrize("at", [(0.05, 0.05), (0.85, 0.05), (0.05, 0.85), (0.85, 0.85)])
@pytest.mark.parametrize("size", [(224, 224), (320, 256), (512, 640)])
def test_letters_in_a_corner_are_found(at: tuple[float, float], size: tuple[int, int]) -> None:
    dark = (soft_texture(*size) * 0.5).astype(np.uint8)
    assert burned_in.count_letters(dark) == 0
    assert burned_in.count_letters(with_letters(dark, at)) >= 1
    assert burned_in.count_letters(with_letters(dark, (at[0] * 0.8, at[1]), "NAME")) >= 3


def test_other_bright_shapes_are_not_counted() -> None:
    dark = (soft_texture() * 0.5).astype(np.uint8)
    assert burned_in.count_letters(with_letters(dark, (0.45, 0.45))) == 0  # in the centre
    line = dark.copy()
    line[:200, 20:23] = 250  # a wire: much higher than a letter
    block = dark.copy()
    block[:60, :60] = 250  # a bright corner: wider than a stroke
    faint = with_letters(np.full((224, 224), 200, np.uint8), (0.05, 0.05))
    for image in (line, block, faint, np.zeros((224, 224), np.uint8), np.zeros((16, 16), np.uint8)):
        assert burned_in.count_letters(image) == 0


def test_a_store_is_sampled_evenly_and_rows_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = np.stack([(soft_texture(seed=i) * 0.4).astype(np.uint8) for i in range(20)])
    marked = plain.copy()
    for row in (4, 9):
        marked[row] = with_letters(plain[row], (0.8, 0.05), "AB")
    table = pd.DataFrame({"A": np.arange(20.0) % 2})
    store = store_writer.write(tmp_path / "s", marked, table, DatasetInfo(labels=("A",), task="binary"))
    result = burned_in.scan(store)
    assert result.rows.tolist() == [4, 9] and result.checked == 20
    assert burned_in.scan(store, limit=5).checked == 5
    describe(str(tmp_path / "s"))
    assert "warning: letters seem to be burned into a corner of 2 of 20 images checked, such as rows 4, 9:" in " ".join(capsys.readouterr().out.split())  # fmt: skip
    clean = store_writer.write(tmp_path / "clean", plain, table, DatasetInfo(labels=("A",), task="binary"))
    assert burned_in.scan(clean).warning() is None


def test_side_markers_of_the_phantom_are_found(tmp_path: Path) -> None:
    root = generate.write(tmp_path, patients=6, size=224)
    images = [np.asarray(Image.open(file).convert("L")) for file in sorted((root / "images").iterdir())]
    assert np.mean([burned_in.count_letters(image) > 0 for image in images]) > 0.8


@pytest.mark.parametrize("size", [224, 320])
def test_the_rates_on_real_x_rays_are_the_documented_ones(shared_data: Path, size: int) -> None:
    files = sorted((shared_data / "covid").iterdir())
    found = {
        number
        for number, file in enumerate(files)
        if burned_in.count_letters(
            np.asarray(Image.open(file).convert("L").resize((size, size), Image.Resampling.BILINEAR))
        )
    }
    assert len(files) == 68 and len(found & LETTERED) >= 13 and not found - LETTERED
