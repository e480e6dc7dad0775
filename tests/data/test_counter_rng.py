"""The random numbers against a slow definition, published values, and statistics of uniform numbers."""

import numpy as np
import pytest

from cxr_ray.data import counter_rng
from cxr_ray.data.counter_rng import COLUMNS, GOLDEN_GAMMA, splitmix64, uniforms


def slow_uniforms(seed: int, epoch: int, position: int, columns: int) -> list[float]:
    """The generator's definition in Python integers."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z &= mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    key = mix((seed & mask) + golden)
    key = mix((key ^ epoch) + golden)
    key = mix((key ^ position) + golden)
    return [(mix(key + column * golden) >> 11) / 2**53 for column in range(1, columns + 1)]


@pytest.mark.parametrize("key", [(0, 0, 0), (1, 2, 3), (-1, 0, 10**12), (2**63, 100, 7)])
def test_numbers_match_their_definition(key: tuple[int, int, int]) -> None:
    seed, epoch, position = key
    assert uniforms(seed, epoch, np.array([position]), 12)[0].tolist() == slow_uniforms(seed, epoch, position, 12)


def test_splitmix64_gives_its_published_numbers() -> None:
    """The first outputs of SplitMix64 from state 1234567, as its reference implementation prints them."""
    with np.errstate(over="ignore"):
        states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * GOLDEN_GAMMA
        assert splitmix64(states).tolist() == [
            6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
        ]  # fmt: skip


def test_every_purpose_has_a_column_of_its_own() -> None:
    names = [
        name
        for name, value in vars(counter_rng).items()
        if name.isupper() and isinstance(value, int) and name != "COLUMNS"
    ]
    assert sorted(getattr(counter_rng, name) for name in names) == list(range(COLUMNS))


def test_a_number_does_not_depend_on_the_other_positions_and_columns() -> None:
    u = uniforms(3, 4, np.arange(50), COLUMNS)
    some = np.array([40, 7, 7])
    np.testing.assert_array_equal(uniforms(3, 4, some, 5), u[some, :5])


def test_numbers_are_uniform_and_uncorrelated() -> None:
    u = uniforms(0, 0, np.arange(20_000), COLUMNS)
    assert u.min() >= 0.0 and u.max() < 1.0
    counts = np.stack([np.histogram(u[:, k], bins=20, range=(0, 1))[0] for k in range(COLUMNS)])
    chi2 = ((counts - 1000) ** 2 / 1000).sum(axis=1)  # 19 degrees of freedom: 99.99% are below 50
    assert chi2.max() < 50
    assert np.abs(np.corrcoef(u.T) - np.eye(COLUMNS)).max() < 0.04
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.04
    for other in (uniforms(1, 0, np.arange(20_000), 1), uniforms(0, 1, np.arange(20_000), 1)):
        assert abs(np.corrcoef(u[:, 0], other[:, 0])[0, 1]) < 0.04
    assert len(np.unique(u)) == u.size
