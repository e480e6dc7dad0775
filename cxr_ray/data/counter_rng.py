"""Counter-based random numbers: each is a function of (seed, epoch, position, column). There is no state to carry or save."""
# N positions

import numpy as np
import numpy.typing as npt

# One column of uniform numbers per purpose. A new purpose takes a new column, so that earlier runs stay reproducible.
AFFINE, ROTATE, SHIFT_X, SHIFT_Y, SHEAR, SCALE, JITTER, BRIGHTNESS, CONTRAST, FLIP = range(10)

ERASE, AREA, ASPECT, LEFT, TOP, RING, SHARE = range(10, 17)

COLUMNS = 17

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""SplitMix64's increment: 2**64 divided by the golden ratio."""

MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def uniforms(seed: int, epoch: int, positions: npt.NDArray[np.int64], columns: int) -> npt.NDArray[np.float64]:
    """[N, columns] numbers in [0, 1), each a function of (seed, epoch, position, column) only.

    Seed, epoch and position go through the finaliser of SplitMix64 (Steele, Lea and Flood 2014) one after the other. Its
    steps by the golden ratio then give the columns. The upper 53 bits become the number."""
    with np.errstate(over="ignore"):
        key = splitmix64(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64) + GOLDEN_GAMMA)
        key = splitmix64((key ^ np.array([epoch & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)) + GOLDEN_GAMMA)
        key_N = splitmix64((key ^ np.asarray(positions).astype(np.int64).view(np.uint64)) + GOLDEN_GAMMA)
        steps = np.arange(1, columns + 1, dtype=np.uint64) * GOLDEN_GAMMA
        bits = splitmix64(key_N[:, None] + steps[None, :])
    out: npt.NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return out


def splitmix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64: the output for each state."""
    z = (state ^ (state >> np.uint64(30))) * MULTIPLIERS[0]
    z = (z ^ (z >> np.uint64(27))) * MULTIPLIERS[1]
    return z ^ (z >> np.uint64(31))
