"""The 64-bit perceptual hash of a picture: near pictures differ in few bits."""

import numpy as np
import numpy.typing as npt
from PIL import Image


def perceptual_hash(images_NHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """64-bit pHash of each image [N, H, W] -> [N]: near pictures differ in few bits.

    As Zauner 2010 (phash.org) and imagehash: 32 x 32 block means in whole gray values, DCT-II, the 8 x 8 lowest
    frequencies, bit set where above their median; row by row, most significant bit first. All in whole numbers (cosines
    times 2^14), so that the hash is the same on every machine.
    """
    angles = np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64
    cosines_8x32 = np.rint(np.cos(angles) * 2**14).astype(np.int64)
    hashes_N = np.zeros(len(images_NHW), np.uint64)
    for start in range(0, len(images_NHW), 256):  # the means of a whole shard would weigh as much as its pictures
        here = images_NHW[start : start + 256]
        blocks = [Image.fromarray(picture).resize((32, 32), Image.Resampling.BOX) for picture in here]
        means_N32 = np.stack([np.asarray(block) for block in blocks]).astype(np.int64)
        frequencies_N64 = (cosines_8x32 @ means_N32 @ cosines_8x32.T).reshape(len(here), 64)
        median_N1 = np.sort(frequencies_N64, axis=1)[:, 31:32]
        hashes_N[start : start + 256] = np.packbits(frequencies_N64 > median_N1, axis=1).view(">u8")[:, 0]
    return hashes_N
