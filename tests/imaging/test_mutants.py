"""Damaged and contradictory files: no crash, no hang, and no accepted picture that another reader sees otherwise.

They are decoded in a process of its own, because a decoder in C may end it."""

import subprocess
import sys
import warnings
from collections import Counter

import numpy as np
import pytest

from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.pixels import ImageError
from tests.fakes.mutants import is_dicom_number, mutant
from tests.fakes.readings import read_dicom, read_picture

BOUND = 1.001
"""Gray values by which a picture may differ from the other reader's, which is not rounded or rounds in other places."""


def outcome(number: int) -> str:
    """refused; equal to the other reader's picture; unread by it; or different."""
    data = mutant(number)
    try:
        small = decode(data, (1, 1), exact_jpeg=True)
        pixels = decode(data, (small.height, small.width), exact_jpeg=True).pixels
    except ImageError:
        return "refused"
    try:
        expected = read_dicom(data) if is_dicom_number(number) else read_picture(data)
    except Exception:  # the other reader does not know what was mutated
        return "unread"
    same = expected.shape == pixels.shape and np.abs(pixels - expected).max() <= BOUND
    return "equal" if same else "different"


def main(first: int, last: int) -> None:
    """Print each number before it is decoded, then its outcome."""
    warnings.simplefilter("ignore")
    for number in range(first, last):
        print(number, end=" ", flush=True)
        print(outcome(number), flush=True)


def check(first: int, last: int) -> None:
    command = [sys.executable, "-c", f"from tests.imaging.test_mutants import main; main({first}, {last})"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60 + (last - first) / 10, check=False)
    assert ended.returncode == 0, f"the process ended at {ended.stdout.splitlines()[-1:]}: {ended.stderr[-2000:]}"
    outcomes = dict(line.split() for line in ended.stdout.splitlines())
    assert [*outcomes] == [str(number) for number in range(first, last)]
    counts = Counter(outcomes.values())
    assert not counts["different"], [number for number, found in outcomes.items() if found == "different"]
    assert counts["unread"] <= 0.03 * counts.total()
    assert counts["equal"] >= 0.3 * counts.total() and counts["refused"] >= 0.3 * counts.total()


def test_mutants_are_refused_or_read_as_others_read_them() -> None:
    check(0, 300)


@pytest.mark.long
def test_many_more_mutants() -> None:
    check(300, 6000)
