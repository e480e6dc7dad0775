"""How similar two maps of the same images are: structural similarity and rank correlation."""
# N images, H height, W width, K side of the window

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.stats import rankdata

from cxr_ray.explanation.localisation import Maps, normalized

Array = npt.NDArray[np.float64]
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def ssim(a_NHW: Maps, b_NHW: Maps) -> Array:
    """Structural similarity [N] of maps, each scaled from its minimum to its maximum: -1 to 1, and 1 for equal maps.

    Gaussian window of 11 pixels with deviation 1.5, K1 0.01, K2 0.03, mean over the windows that lie inside the map (Wang et al.
    2004, doi:10.1109/TIP.2003.819861). Raises `ValueError` for maps smaller than the window."""
    if a_NHW.shape != b_NHW.shape or min(a_NHW.shape[1:]) < WINDOW:
        raise ValueError(f"maps {list(a_NHW.shape)} and {list(b_NHW.shape)}: equal sizes of at least {WINDOW} pixels")
    a, b = normalized(a_NHW), normalized(b_NHW)
    mean_a, mean_b = _windows(a), _windows(b)
    var_a, var_b = _windows(a * a) - mean_a**2, _windows(b * b) - mean_b**2
    covariance = _windows(a * b) - mean_a * mean_b
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return np.asarray((luminance * structure).mean(axis=(1, 2)))


def rank_correlation(a_NHW: Maps, b_NHW: Maps) -> Array:
    """Spearman's correlation [N] of the pixels of two maps, ties at their mean rank; 0 where a map is constant."""
    if a_NHW.shape != b_NHW.shape:
        raise ValueError(f"maps {list(a_NHW.shape)} and {list(b_NHW.shape)}: equal sizes")
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (a_NHW, b_NHW)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.zeros(len(a)), where=scale > 0)


def _windows(maps_NHW: Array) -> Array:
    """Weighted mean of every window inside each map [N, H - 10, W - 10]."""
    offset = np.arange(WINDOW) - WINDOW // 2
    weight = np.exp(-(offset**2) / (2 * SIGMA**2))
    weight /= weight.sum()
    inner = slice(WINDOW // 2, -(WINDOW // 2))
    rows = ndimage.correlate1d(maps_NHW, weight, axis=1)[:, inner]
    return np.asarray(ndimage.correlate1d(rows, weight, axis=2)[:, :, inner])
