"""Statistics of stored images: mean, variance and hashes of each; mean and deviation over many. Decodes nothing."""
# N images, H x W pixels of the stored image

import hashlib

import numpy as np
import pandas as pd

from cxr_ray.imaging.phash import perceptual_hash
from cxr_ray.imaging.pixels import SCALE_8_TO_16, Pixels, to_uint8


def image_statistics(images_NHW: Pixels) -> pd.DataFrame:
    """One row per image: mean and population variance of its gray values (scale 0 to 255), sha256 of its stored pixels, and its
    perceptual hash. Mean and variance come from exact integer sums, so that they are the same on every machine."""
    count = len(images_NHW)
    scale = 1 if images_NHW.dtype == np.uint8 else SCALE_8_TO_16
    size = int(images_NHW[0].size) if count else 1
    mean_N, variance_N, digests = np.empty(count), np.empty(count), []
    for i, image_HW in enumerate(images_NHW):
        # float64 sums of integers are exact in any order below 2^53; the squares of 16-bit values exceed it.
        values = image_HW.reshape(-1).astype(np.float64 if scale == 1 else np.uint64)
        total, squares = int(values.sum()), int(values @ values)
        mean_N[i] = total / (size * scale)
        variance_N[i] = (size * squares - total * total) / (size * size * scale * scale)  # Python's integers: exact
        digests.append(hashlib.sha256(image_HW.tobytes()).hexdigest())
    return pd.DataFrame(
        {
            "mean": mean_N,
            "variance": variance_N,
            "pixels_sha256": pd.Series(digests, dtype="str"),
            "phash": perceptual_hash(to_uint8(images_NHW if scale == 1 else images_NHW / np.float32(scale))),
        }
    )


def pooled_mean_std(statistics: pd.DataFrame) -> tuple[float, float]:
    """Mean and standard deviation (gray values 0 to 255) over all pixels of all images, from their `image_statistics`.

    All images have equally many pixels, so the total variance is the mean of the variances plus the variance of the means."""
    means_N, variances_N = statistics["mean"].to_numpy(np.float64), statistics["variance"].to_numpy(np.float64)
    return float(means_N.mean()), float(np.sqrt(variances_N.mean() + means_N.var()))
