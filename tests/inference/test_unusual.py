"""The check for unusual images: measurements, distances and thresholds, restated slowly. Fitting to a run: test_unusual_fit.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.errors import UserError
from cxr_ray.inference import unusual
from cxr_ray.inference.unusual import Gaussian, UnusualCheck


def test_what_is_measured_of_an_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    tiles = np.array([[image[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() for j in range(16)] for i in range(16)])
    steps = [abs(int(image[i, j]) - int(image[i + 1, j])) for i in range(63) for j in range(64)]
    steps += [abs(int(image[i, j]) - int(image[i, j + 1])) for i in range(64) for j in range(63)]
    wide = np.array([[tiles[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(8)] for i in range(8)])
    layout = (wide - wide.mean()) / wide.std()
    found = unusual.measure(torch.from_numpy(image)[None])
    assert found["levels"][0] == pytest.approx([*np.sort(tiles.ravel())[[0, 64, 128, 191, 255]], np.mean(steps)])
    assert found["layout"][0] == pytest.approx(layout.ravel(), abs=1e-5)


@given(st.integers(2, 300), st.integers(2, 300), st.integers(0, 3))
def test_any_image_can_be_measured(height: int, width: int, count: int) -> None:
    found = unusual.measure(torch.full((count, height, width), 7, dtype=torch.uint8))
    assert found["levels"].shape == (count, 6) and found["layout"].shape == (count, 64)
    assert np.isfinite(found["levels"]).all() and (found["layout"] == 0).all()


def test_a_distance_is_mahalanobis_with_the_shrunk_covariance() -> None:
    rng = np.random.default_rng(1)
    train = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6)) + 5
    gaussian = Gaussian.fit(train)
    z = (train - train.mean(axis=0)) / train.std(axis=0)
    sample = z.T @ z / len(z)
    # Ledoit and Wolf 2004, with mu the mean variance: the weight of the target is b / d.
    target = np.eye(6) * np.trace(sample) / 6
    d = ((sample - target) ** 2).sum()
    b = sum(((np.outer(row, row) - sample) ** 2).sum() for row in z) / len(z) ** 2
    covariance = min(b / d, 1.0) * target + (1 - min(b / d, 1.0)) * sample
    new = rng.normal(size=(7, 6)) * 3
    offset = (new - train.mean(axis=0)) / train.std(axis=0)
    expected = [np.sqrt(row @ np.linalg.inv(covariance) @ row / 6) for row in offset]
    assert gaussian.distances(new) == pytest.approx(expected, rel=1e-3)


def test_more_values_than_rows_have_one_variance_outside_the_rows() -> None:
    rng = np.random.default_rng(2)
    gaussian = Gaussian.fit(rng.normal(size=(30, 400)))
    assert gaussian.directions.shape == (30, 400) and gaussian.variances.shape == (31,)
    assert np.isfinite(gaussian.distances(rng.normal(size=(5, 400)))).all()
    near, far = rng.normal(size=(2, 100, 400)) * [[[1.0]], [[3.0]]]
    assert gaussian.distances(near).max() < gaussian.distances(far).min()


def test_values_that_never_change_do_not_decide_alone() -> None:
    train = np.random.default_rng(3).normal(size=(50, 5))
    train[:, 4] = 0.0
    moved = train.copy()
    moved[:, 4] = 0.01
    gaussian = Gaussian.fit(train)
    assert gaussian.distances(moved).mean() < 1.2 * gaussian.distances(train).mean()
    assert np.isfinite(Gaussian.fit(np.zeros((20, 5))).distances(np.ones((1, 5)))).all()


@pytest.mark.parametrize("rows", [20, 99, 400, 2000])
def test_a_hundredth_of_rows_like_val_is_unusual(rows: int) -> None:
    rng = np.random.default_rng(rows)
    gaussians = {name: Gaussian.fit(rng.normal(size=(500, width))) for name, width in (("a", 4), ("b", 30), ("c", 9))}
    shares = []
    for _ in range(20):
        val, new = ({k: rng.normal(size=(n, len(g.mean))) for k, g in gaussians.items()} for n in (rows, 2000))
        thresholds = unusual.calibrate(gaussians, val)
        check = UnusualCheck(gaussians, thresholds, None, {})
        shares.append((check.scores(new) > 1).mean())
    assert 0.002 < np.mean(shares) < 0.014


def test_the_score_is_the_largest_ratio_and_an_unknown_aspect_does_not_count() -> None:
    rng = np.random.default_rng(4)
    gaussians = {"levels": Gaussian.fit(rng.normal(size=(60, 6)))}
    check = UnusualCheck(gaussians, {"levels": 2.0, "aspect": 0.2}, 0.0, {})
    values = {"levels": rng.normal(size=(3, 6)), "features": rng.normal(size=(3, 8))}
    aspect = np.array([1.0, np.exp(0.5), np.nan])
    distance = gaussians["levels"].distances(values["levels"]) / 2
    assert check.scores(values, aspect) == pytest.approx([distance[0], max(distance[1], 2.5), distance[2]])
    assert check.scores(values) == pytest.approx(distance)


def test_aspects_near_the_median_are_usual() -> None:
    assert unusual.aspect_threshold(np.ones(50), 0.0) == pytest.approx(np.log(1.1))
    wide = np.exp(np.linspace(-0.5, 0.5, 999))
    assert unusual.aspect_threshold(wide, 0.0) == pytest.approx(0.495, abs=0.002)


def test_a_check_is_read_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    gaussians = {"levels": Gaussian.fit(rng.normal(size=(60, 6))), "layout": Gaussian.fit(rng.normal(size=(20, 64)))}
    check = UnusualCheck(gaussians, {"levels": 1.5, "layout": 2.5}, None, {"train": 60, "val": 9, "weights": "f"})
    unusual.write(tmp_path / "check", check)
    found = unusual.read(tmp_path / "check")
    assert (found.thresholds, found.aspect, found.about) == (check.thresholds, None, check.about)
    values = {"levels": rng.normal(size=(3, 6)), "layout": rng.normal(size=(3, 64))}
    assert np.array_equal(found.scores(values), check.scores(values))
    assert not found.uses_features


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "check"
    file.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match=r"is damaged .*; delete it, and `cxr-ray evaluate` fits it again"):
        unusual.read(file)
    with pytest.raises(FileNotFoundError):
        unusual.read(tmp_path / "none")
