"""Statistics of stored pictures: mean, variance, hashes; and of many together."""
# N images, H x W pixels of the stored picture, L labels

import hashlib

import numpy as np
import pandas as pd

from cxr_ray.imaging.phash import perceptual_hash
from cxr_ray.imaging.pixels import STEPS, Pixels, eight_bit


def picture_statistics(images: Pixels) -> pd.DataFrame:
    """mean and (population) variance of the gray values 0 to 255 of each picture [n, H, W], sha256 of its stored pixels, and
    its perceptual hash. Exact to the last step: the same on every machine."""
    n = len(images)
    steps = 1 if images.dtype == np.uint8 else STEPS
    cells = int(images[0].size) if n else 1
    mean, variance, digests = np.empty(n), np.empty(n), []
    for i, picture in enumerate(images):
        # Sums of whole numbers below 2^53 are exact in any order; squares of 16 bits go beyond.
        values = picture.reshape(-1).astype(np.float64 if steps == 1 else np.uint64)
        total, squares = int(values.sum()), int(values @ values)
        mean[i] = total / (cells * steps)
        variance[i] = (cells * squares - total * total) / (cells * cells * steps * steps)  # Python's integers: exact
        digests.append(hashlib.sha256(picture.tobytes()).hexdigest())
    return pd.DataFrame(
        {
            "mean": mean,
            "variance": variance,
            "pixels_sha256": pd.Series(digests, dtype="str"),
            "phash": perceptual_hash(eight_bit(images if steps == 1 else images / np.float32(steps))),
        }
    )


def pooled(pictures: pd.DataFrame) -> tuple[float, float]:
    """Mean and deviation (gray values from 0 to 255) of all pixels of some pictures together, by their `picture_statistics`: the
    variance of all is the mean of the pictures' variances and the variance of their means, since each has as many pixels."""
    means_N, variances_N = pictures["mean"].to_numpy(np.float64), pictures["variance"].to_numpy(np.float64)
    return float(means_N.mean()), float(np.sqrt(variances_N.mean() + means_N.var()))
