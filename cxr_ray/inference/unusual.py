"""Whether images are like those that a run was trained on: what is measured and compared. Fitting it to a run: unusual_fit.py.

- `levels`: five gray levels of the image (least, quartiles and largest of 16 x 16 tiles) and the mean difference of neighbouring pixels
- `layout`: where it is bright and dark: 8 x 8 tiles, less their mean, in units of their deviation
- `features`: the pooled features of the network, the input of its head
- `aspect`: height / width of the original, where the caller knows it

Of the first three the Mahalanobis distance from the training rows is taken, of the aspect the distance of its logarithm from their
median. Each is divided by its threshold, and the score is the largest ratio: above 1 the image is unusual. Thresholds are such that
1% of val is unusual. A score says that an image differs from the training's, never that the prediction is right or wrong.
"""
# N images, H x W pixels, D values of a measurement, K principal directions

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from scipy.special import stdtrit
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor
from torch.nn import functional as F

from cxr_ray.errors import UserError
from cxr_ray.models.serialization import to_bytes
from cxr_ray.storage.atomic import write_atomic

Floats = npt.NDArray[np.float32]

FILE = "unusual.safetensors"
"""Name of the file in a run folder."""
FORMAT = "cxr_ray unusual 1"
PIXELS = 64
"""Every s-th row and column of pixels is measured, so that this number of them or up to twice as many remain."""
TILES, LAYOUT_TILES = 16, 8
QUARTILES = (0, 64, 128, 191, 255)
"""Places in the order of the 16 x 16 tiles."""
DIRECTIONS = 256
"""Most principal directions that a `Gaussian` keeps: 2 MiB for 2,048 features."""
SMALLEST_DEVIATION = 0.05
"""Of a value, relative to the mean deviation of all: a feature that is always zero in training must not decide alone."""
ASPECT_TOLERANCE = float(np.log(1.1))
"""An aspect within 10% of the median is usual: a dataset of one aspect has no deviation to compare with."""
SHARE = 0.01
"""Of val that is unusual."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution of D values: principal directions, and one variance for all that is perpendicular to them.

    The covariance is shrunk towards equal variances (Ledoit and Wolf 2004), so it needs fewer rows than values."""

    mean: Floats
    """[D]"""
    deviation: Floats
    """[D]; values are divided by it first."""
    directions: Floats
    """[K, D], orthonormal."""
    variances: Floats
    """[K + 1]: along the directions, and of the rest."""

    @classmethod
    def fit(cls, values_ND: npt.NDArray[Any]) -> "Gaussian":
        """That of training rows [N, D]."""
        values = np.asarray(values_ND, np.float64)
        count, width = values.shape
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        deviation = np.maximum(deviation, max(SMALLEST_DEVIATION * float(deviation.mean()), 1e-6))
        z_ND = (values - mean) / deviation
        shrinkage = ledoit_wolf_shrinkage(z_ND, assume_centered=True)
        _, singular, directions = np.linalg.svd(z_ND, full_matrices=False)
        variances = np.zeros(width)
        variances[: len(singular)] = singular**2 / count
        variances = (1 - shrinkage) * variances + shrinkage * variances.mean()
        smallest = 1e-6 * float(variances.max()) + 1e-12  # of values that depend on each other exactly
        kept = min(DIRECTIONS, len(singular))
        rest = float(variances[kept:].mean()) if kept < width else smallest
        return cls(
            mean.astype(np.float32),
            deviation.astype(np.float32),
            directions[:kept].astype(np.float32),
            np.maximum(np.append(variances[:kept], rest), smallest).astype(np.float32),
        )

    def distances(self, values_ND: npt.NDArray[Any]) -> Floats:
        """Mahalanobis distances [N] of values [N, D], divided by the root of D: about 1 for the training rows."""
        z_ND = (np.asarray(values_ND, np.float32) - self.mean) / self.deviation
        # By torch: NumPy's BLAS has threads of its own, which spin and take the cores from the model's.
        along_NK = (torch.from_numpy(z_ND) @ torch.from_numpy(self.directions).T).numpy()
        squared_N = (along_NK**2 / self.variances[:-1]).sum(axis=1)
        if len(self.directions) < len(self.mean):
            rest_N = np.maximum((z_ND**2).sum(axis=1) - (along_NK**2).sum(axis=1), 0.0)
            squared_N = squared_N + rest_N / self.variances[-1]
        return np.asarray(np.sqrt(squared_N / len(self.mean)), np.float32)


def measure(grays_NHW: Tensor) -> dict[str, Floats]:
    """`levels` [N, 6] and `layout` [N, 64] of gray values 0 to 255 [N, H, W] on any device."""
    height, width = grays_NHW.shape[-2:]
    pixels = grays_NHW[:, :: max(1, height // PIXELS), :: max(1, width // PIXELS)].float()
    sharpness_N = (pixels.diff(dim=1).abs().mean(dim=(1, 2)) + pixels.diff(dim=2).abs().mean(dim=(1, 2))) / 2
    tiles = F.adaptive_avg_pool2d(pixels.unsqueeze(1), TILES)
    quartiles = tiles.flatten(1).sort(dim=1).values[:, list(QUARTILES)]
    layout = F.adaptive_avg_pool2d(tiles, LAYOUT_TILES).flatten(1)
    layout = layout - layout.mean(dim=1, keepdim=True)
    layout = layout / layout.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1.0)  # one gray has no layout
    levels = torch.cat([quartiles, sharpness_N.unsqueeze(1)], dim=1)
    return {"levels": levels.cpu().numpy(), "layout": layout.cpu().numpy()}


@dataclass(frozen=True, eq=False)
class UnusualCheck:
    """What the training rows of a run looked like, and from where on an image is unusual."""

    gaussians: Mapping[str, Gaussian]
    """Of `levels`, `layout` and, if the network has a head, `features`."""
    thresholds: Mapping[str, float]
    """Of their distances; of `aspect`, where the store has it: the largest usual distance of its logarithm."""
    aspect: float | None
    """Median of the logarithm of height / width."""
    about: Mapping[str, Any]
    """What it was fitted to: numbers of `train` and `val` rows, `weights`, the sha256 of the model's file."""

    @property
    def uses_features(self) -> bool:
        """Whether `ratios` needs `features`."""
        return "features" in self.gaussians

    def ratios(
        self, values: Mapping[str, npt.NDArray[Any]], aspect_N: npt.NDArray[np.float64] | None = None
    ) -> dict[str, Floats]:
        """What was measured in terms of its threshold, [N] each, by name; values of what is not in the check are ignored.

        `values`: of `measure`, and `features` [N, D]. `aspect_N`: height / width of the originals, NaN where it is unknown."""
        found = {
            name: gaussian.distances(values[name]) / np.float32(self.thresholds[name])
            for name, gaussian in self.gaussians.items()
        }
        if aspect_N is not None and self.aspect is not None:
            found["aspect"] = (np.abs(np.log(aspect_N) - self.aspect) / self.thresholds["aspect"]).astype(np.float32)
        return found

    def scores(self, values: Mapping[str, npt.NDArray[Any]], aspect_N: npt.NDArray[np.float64] | None = None) -> Floats:
        """The largest of `ratios` [N]: above 1 the image is unusual."""
        return np.asarray(np.fmax.reduce(list(self.ratios(values, aspect_N).values())), np.float32)


def calibrate(
    gaussians: Mapping[str, Gaussian], val: Mapping[str, npt.NDArray[Any]], *, share: float = SHARE
) -> dict[str, float]:
    """Thresholds of the distances, such that a share of rows like those of `val` exceeds one of them or more.

    Logarithms of distances are nearly normal. Each threshold is z deviations above their mean on val, with one z for all. It is the
    smallest for which the expected share of new rows above is at most `share` (the (N + 1)(1 - share)-th smallest of the N largest
    z's of a row). If val has too few rows for that, it is the largest of all, or the bound of a normal distribution for one more value
    (Student's t) if that is larger."""
    logs = {name: np.log(np.maximum(gaussian.distances(val[name]), 1e-6)) for name, gaussian in gaussians.items()}
    means = {name: float(log_N.mean()) for name, log_N in logs.items()}
    deviations = {name: max(float(log_N.std(ddof=1)), 1e-3) for name, log_N in logs.items()}
    z_N = np.sort(np.max([(log_N - means[name]) / deviations[name] for name, log_N in logs.items()], axis=0))
    count, place = len(z_N), _place(len(z_N), share)
    z = float(z_N[min(place, count) - 1])
    if place > count:
        z = max(z, float(stdtrit(count - 1, 1 - share / len(logs))) * float(np.sqrt(1 + 1 / count)))
    return {name: float(np.exp(means[name] + z * deviations[name])) for name in logs}


def aspect_threshold(aspect_N: npt.NDArray[np.float64], median: float, *, share: float = SHARE) -> float:
    """The largest usual distance of the logarithm of height / width from `median`, from the aspects of val [N]."""
    distance_N = np.sort(np.abs(np.log(aspect_N) - median))
    return max(ASPECT_TOLERANCE, float(distance_N[min(_place(len(distance_N), share), len(distance_N)) - 1]))


def _place(count: int, share: float) -> int:
    """k, such that the k-th smallest of `count` values is exceeded by at most `share` of new ones; above `count` if none is."""
    return int(np.ceil((count + 1) * (1 - share)))


# ---- files


def write(path: Path, check: UnusualCheck) -> None:
    """Write `check` to `path` atomically: safetensors, and in the header the thresholds as JSON."""
    header = {"thresholds": dict(check.thresholds), "aspect": check.aspect, "about": dict(check.about)}
    tensors = {
        f"{name}.{field}": torch.from_numpy(np.ascontiguousarray(getattr(gaussian, field)))
        for name, gaussian in check.gaussians.items()
        for field in Gaussian.__dataclass_fields__
    }
    write_atomic(path, to_bytes(tensors, {"format": FORMAT, "cxr_ray": json.dumps(header, sort_keys=True)}))


def read(path: Path) -> UnusualCheck:
    """The check in `path`. Raises `UserError` if the file is truncated or not of this project, `FileNotFoundError` if there is none."""
    try:
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, and `cxr-ray evaluate` fits it again") from None
    if meta.get("format") != FORMAT:
        raise UserError(
            f"{path}: its format is {meta.get('format')!r}, not {FORMAT!r}; delete it, and `cxr-ray evaluate` fits it again"
        )
    header = json.loads(meta["cxr_ray"])
    names = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    gaussians = {
        name: Gaussian(*(tensors[f"{name}.{field}"] for field in Gaussian.__dataclass_fields__)) for name in names
    }
    return UnusualCheck(gaussians, header["thresholds"], header["aspect"], header["about"])
