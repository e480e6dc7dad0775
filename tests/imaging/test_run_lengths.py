"""Run lengths against encoders that are written from the formats' definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.imaging import run_lengths

MASKS = st.tuples(
    st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2, 0.6, 1.0])
).map(lambda v: np.random.default_rng(v[2]).random(v[:2]) < v[3])


def runs_of(flat: list[bool]) -> list[int]:
    """Lengths of runs of 0, 1, 0, ... ; the first may be 0."""
    runs, now = [0], False
    for value in flat:
        if value != now:
            runs.append(0)
            now = value
        runs[-1] += 1
    return runs


def coco(mask: np.ndarray) -> str:
    """COCO's compressed string: differences to the run two before, in groups of five bits."""
    counts = runs_of(mask.T.ravel().tolist())
    text = ""
    for at, count in enumerate(counts):
        value = count - counts[at - 2] if at > 2 else count
        more = True
        while more:
            group = value & 0x1F
            value >>= 5
            more = value != (-1 if group & 0x10 else 0)
            text += chr((group | (0x20 if more else 0)) + 48)
    return text


def pairs(mask: np.ndarray) -> str:
    counts, at, words = runs_of(mask.ravel().tolist()), 1, []
    for number, count in enumerate(counts):
        if number % 2:
            words += [str(at), str(count)]
        at += count
    return " ".join(words)


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_masks_come_back(mask: np.ndarray) -> None:
    size = (mask.shape[0], mask.shape[1])
    np.testing.assert_array_equal(run_lengths.from_coco(coco(mask), size), mask)
    assert run_lengths.coco_pixels(coco(mask), size) == mask.sum()
    np.testing.assert_array_equal(run_lengths.from_pairs(pairs(mask), size), mask)


def test_long_runs_and_a_published_example() -> None:
    mask = np.zeros((300, 200), bool)
    mask[40:290, 3:190] = True
    np.testing.assert_array_equal(run_lengths.from_coco(coco(mask), (300, 200)), mask)
    # pycocotools' encoding of a 3 x 4 mask with its second column set, by hand: runs 3, 3, 6.
    assert run_lengths.from_coco("336", (3, 4)).tolist() == [[False, True, False, False]] * 3


@pytest.mark.parametrize("text", ["33", "3\x00", "33c", "3" * 9])
def test_a_damaged_coco_string_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"runs|run lengths"):
        run_lengths.from_coco(text, (3, 4))


@pytest.mark.parametrize("text", ["1", "0 3", "11 3", "x 1", "2 -1"])
def test_damaged_pairs_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"run|invalid"):
        run_lengths.from_pairs(text, (3, 4))
