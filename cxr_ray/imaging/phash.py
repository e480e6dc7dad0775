"""The 64-bit perceptual hash of an image: similar images differ in few bits. Comparing hashes is `data/leakage.py`'s task."""
# N images, H x W pixels

import numpy as np
import numpy.typing as npt
from PIL import Image

CHUNK = 256
"""Images hashed at once: the block means of a complete shard would need as much memory as its images."""


def perceptual_hash(images_NHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """64-bit pHash [N] of each image [N, H, W].

    As in Zauner 2010 (phash.org) and imagehash: 32 x 32 block means rounded to integers, DCT-II, the 8 x 8 lowest
    frequencies; a bit is set if its frequency is above their median. Row by row, most significant bit first. All in integers
    (cosines times 2^14), so that the hash is the same on every machine.
    """
    angles = np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64
    cosines_8x32 = np.rint(np.cos(angles) * 2**14).astype(np.int64)
    hashes_N = np.zeros(len(images_NHW), np.uint64)
    for start in range(0, len(images_NHW), CHUNK):
        chunk = images_NHW[start : start + CHUNK]
        blocks = [Image.fromarray(image).resize((32, 32), Image.Resampling.BOX) for image in chunk]
        means_N32 = np.stack([np.asarray(block) for block in blocks]).astype(np.int64)
        frequencies_N64 = (cosines_8x32 @ means_N32 @ cosines_8x32.T).reshape(len(chunk), 64)
        median_N1 = np.sort(frequencies_N64, axis=1)[:, 31:32]
        hashes_N[start : start + CHUNK] = np.packbits(frequencies_N64 > median_N1, axis=1).view(">u8")[:, 0]
    return hashes_N
