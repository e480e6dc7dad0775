"""Letters burned into corners: synthetic ones are found, anatomy is not mistaken for them, and real X-rays keep the documented rates."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
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


def count_of(
    height: int, width: int, *, at: tuple[int, int] = (5, 5), size: tuple[int, int] = (224, 224), gray: int = 255
) -> int:
    """Letters counted in a black image with one bright rectangle whose upper left pixel is `at`."""
    image = np.zeros(size, np.uint8)
    image[at[0] : at[0] + height, at[1] : at[1] + width] = gray
    return burned_in.count_letters(image)


@pytest.mark.parametrize(
    ("height", "width", "letters"),
    [
        (3, 8, 0), (4, 8, 1),  # at least 0.015 x 224 = 3.36 pixels high
        (26, 8, 1), (27, 8, 0),  # at most 0.12 x 224 = 26.88
        (20, 8, 1), (20, 9, 0),  # narrower than the square of the top-hat: 0.035 x 224 = 7.84, rounded to 8, made odd
        (8, 32, 1), (8, 33, 0),  # at most 1.2 x 26.88 = 32.26 wide
        (12, 1, 0), (12, 2, 1),  # at least 0.3 x 3.36 = 1.01
    ],
)  # fmt: skip
def test_a_letter_has_the_size_that_the_shares_of_the_shorter_side_allow(height: int, width: int, letters: int) -> None:
    assert count_of(height, width) == letters
    assert count_of(height, width, size=(224, 448)) == letters


def test_a_shape_must_be_80_gray_values_brighter_and_fill_a_fifth_of_its_box() -> None:
    assert (count_of(10, 5, gray=80), count_of(10, 5, gray=81)) == (0, 1)
    for width, letters in ((1, 0), (2, 1)):  # a diagonal line: 80 of the 460, or 160 of the 540 pixels of its box
        image = np.zeros((224, 224), np.uint8)
        for step in range(20):
            image[5 + step, 5 + step : 5 + step + 4 * width] = 255
        image[5:25, 40:44] = 255  # a vertical line, which is a letter
        assert burned_in.count_letters(image) == 1 + letters, width


@pytest.mark.parametrize("turn", range(4))
def test_a_corner_is_a_quarter_of_the_height_and_35_percent_of_the_width(turn: int) -> None:
    """56 x 78 of 224 x 224 pixels. The smallest letters touch the corner's edges from inside, or are just beyond them."""
    flat, narrow = (4, 8), (12, 2)  # without a row or a column they are no letters
    for (height, width), at, letters in (
        (flat, (0, 20), 1), (flat, (52, 20), 1), (flat, (53, 20), 0), (flat, (56, 20), 0),
        (narrow, (20, 0), 1), (narrow, (20, 76), 1), (narrow, (20, 77), 0), (narrow, (20, 78), 0),
    ):  # fmt: skip
        image = np.zeros((224, 224), np.uint8)
        image[at[0] : at[0] + height, at[1] : at[1] + width] = 255
        flipped = image[:: (1, -1)[turn // 2], :: (1, -1)[turn % 2]]
        assert burned_in.count_letters(np.ascontiguousarray(flipped)) == letters, at


def test_the_corner_with_most_letters_counts() -> None:
    image = np.zeros((224, 224), np.uint8)
    for at in ((5, 5), (5, 200), (5, 210), (25, 200), (200, 5), (200, 15)):
        image[at[0] : at[0] + 10, at[1] : at[1] + 4] = 255
    assert burned_in.count_letters(image) == 3


@pytest.mark.parametrize("size", [(40, 40), (40, 300), (300, 40)])
def test_in_a_small_image_a_stroke_is_narrower_than_three_pixels(size: tuple[int, int]) -> None:
    assert count_of(3, 3, size=size) == 0
    assert count_of(2, 3, size=size) == 1
    assert (count_of(1, 3, size=size), count_of(1, 4, size=size)) == (0, 1)  # four pixels or more


class Pictures:
    """A store of `count` images in memory; those in `marked` have a letter. Row numbers are 7, 9, 11, ..."""

    def __init__(self, count: int, marked: range) -> None:
        self.index = pd.DataFrame({"row": 7 + 2 * np.arange(count)})
        self.marked = marked

    def pictures(self, rows: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        numbers = np.asarray(rows).tolist()
        images = np.zeros((len(numbers), 40, 40), np.uint8)
        for image, row in zip(images, numbers, strict=True):
            image[5:7, 5:8] = 255 if (row - 7) // 2 in self.marked else 0
        return images


def test_each_sampled_image_is_checked_once() -> None:
    found = burned_in.scan(Pictures(130, range(60, 70)))
    assert found.rows.tolist() == [7 + 2 * at for at in range(60, 70)] and found.checked == 130
    assert burned_in.scan(Pictures(10, range(10)), limit=4).rows.tolist() == [7, 13, 19, 25]  # images 0, 3, 6 and 9
    assert burned_in.scan(Pictures(10, range(10)), limit=10).checked == 10
    assert burned_in.scan(Pictures(501, range(0))).checked == 500


def test_a_warning_names_the_first_three_rows() -> None:
    message = burned_in.ScanResult(np.array([4, 9, 11, 15]), 1200).warning()
    assert message is not None and "corner of 4 of 1,200 images checked, such as rows 4, 9, 11: they" in message


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
