"""A decoder that kills its process: `Image.open` of `die of N ...` raises the signal N, of `eat N ...` allocates N MiB.

Python imports a module of this name at its start from the folders of PYTHONPATH, so that it also acts in processes that a test's
process starts.
"""

import os

from PIL import Image

_open = Image.open


def _open_or_die(file, *arguments, **options):
    words = file.getvalue()[:40].split()
    if words[:2] == [b"die", b"of"]:
        os.kill(os.getpid(), int(words[2]))
    if words[:1] == [b"eat"]:
        b"x" * (int(words[1]) << 20)
    return _open(file, *arguments, **options)


setattr(Image, "open", _open_or_die)  # noqa: B010 - mypy allows no other function here
