"""Random numbers that are counted, not carried: each is a function of (seed, epoch, position, purpose)."""
# N positions

import numpy as np
import numpy.typing as npt

# One column of uniform numbers a purpose; a new purpose takes a new column, so that old runs repeat.
AFFINE, ROTATE, SHIFT_X, SHIFT_Y, SHEAR, SCALE, JITTER, BRIGHTNESS, CONTRAST, FLIP = range(10)

ERASE, AREA, ASPECT, LEFT, TOP, RING, SHARE = range(10, 17)

COLUMNS = 17

GOLDEN = np.uint64(0x9E3779B97F4A7C15)

MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def uniforms(seed: int, epoch: int, positions: npt.NDArray[np.int64], columns: int) -> npt.NDArray[np.float64]:
    """[N, columns] numbers in [0, 1), each a function of (seed, epoch, position, column) alone.

    Counter-based: the key is folded through the finaliser of SplitMix64 (Steele, Lea and Flood 2014), whose steps by
    the golden ratio then give the columns; the upper 53 bits make the number."""
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64) + GOLDEN)
        key = _mix((key ^ np.array([epoch & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)) + GOLDEN)
        key_N = _mix((key ^ np.asarray(positions).astype(np.int64).view(np.uint64)) + GOLDEN)
        steps = np.arange(1, columns + 1, dtype=np.uint64) * GOLDEN
        bits = _mix(key_N[:, None] + steps[None, :])
    out: npt.NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return out


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * MIX[0]
    z = (z ^ (z >> np.uint64(27))) * MIX[1]
    return z ^ (z >> np.uint64(31))
