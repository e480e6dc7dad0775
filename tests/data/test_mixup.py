"""Mixup: pairs depend on positions only, targets and images are mixed alike, and the number of ranks does not matter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest

from cxr_ray.data import loader, mixup
from cxr_ray.data.counter_rng import COLUMNS, RING, SHARE, uniforms
from tests.fakes.store import fake_store


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.floats(0.05, 4.0), st.integers(0, 1000))
def test_pairs_match_their_definition(count: int, alpha: float, start: int) -> None:
    found = mixup.pairs(alpha, seed=3, epoch=2, positions=np.arange(start, start + count))
    u = uniforms(3, 2, np.arange(start, start + count), COLUMNS)
    ring = sorted(range(count), key=lambda i: u[i, RING])
    for k in range(count):
        i = ring[k]
        assert found.other[i] == ring[(k + 1) % count]
        share = beta.ppf(u[i, SHARE], alpha, alpha)
        assert found.share[i] == pytest.approx(max(share, 1 - share), abs=1e-6)
    assert sorted(found.other) == list(range(count))  # each is a partner once
    assert count < 2 or all(found.other != np.arange(count))


def test_shares_follow_the_beta_distribution() -> None:
    share = mixup.pairs(0.4, seed=0, epoch=0, positions=np.arange(20_000)).share.astype(float)
    assert share.min() >= 0.5 and share.max() <= 1.0
    folded = lambda x: beta.cdf(x, 0.4, 0.4) - beta.cdf(1 - x, 0.4, 0.4)  # noqa: E731 - of max(l, 1 - l)
    assert kstest(share, folded).pvalue > 1e-4


def test_pairs_depend_on_seed_epoch_and_position() -> None:
    def of(seed: int, epoch: int, start: int) -> list[int]:
        return mixup.pairs(1.0, seed=seed, epoch=epoch, positions=np.arange(start, start + 50)).other.tolist()

    assert of(0, 0, 0) == of(0, 0, 0)
    assert len({tuple(of(*key)) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 50)]}) == 4


def test_targets_are_mixed_and_unknown_if_either_is() -> None:
    pairs = mixup.Pairs(np.array([1, 2, 0]), np.array([0.75, 0.5, 1.0], dtype=np.float32))
    truth = np.array([[1, 0], [0, np.nan], [0, 1]], dtype=np.float32)
    np.testing.assert_allclose(pairs.targets(truth), [[0.75, np.nan], [0.0, np.nan], [0.0, 1.0]])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_number_of_ranks_gives_the_same_mixture(world: int) -> None:
    """Concatenated over the ranks, each batch equals a slow mixture of the global batch."""
    store = fake_store(23, unknown=0.2)
    rows = store.index["row"].to_numpy(np.int64)
    truth = store.index[list(store.labels)].to_numpy(np.float32)
    order = loader.epoch_order(np.ones(23, dtype=np.int64), seed=1, epoch=4)

    def pair(positions: np.ndarray) -> mixup.Pairs:
        return mixup.pairs(0.8, seed=1, epoch=4, positions=positions)

    ranks = [
        list(
            loader.train_batches(
                store, loader.EpochSamples(rows, truth, order, pair), batch_size=8, rank=rank, world=world
            )
        )
        for rank in range(world)
    ]
    for step, start in enumerate((0, 8, 16)):
        batch = order[start : start + 8]
        pairs = pair(np.arange(start, start + len(batch)))
        mixed = [of for b in ranks if (of := b[step].mixed) is not None]
        assert len(mixed) == world
        pixels = torch.cat(
            [
                mixup.blend(torch.from_numpy(b[step].images), torch.from_numpy(of.images), of.share)
                for b, of in zip(ranks, mixed, strict=True)
            ]
        ).numpy()
        targets = np.concatenate([b[step].truth for b in ranks])
        assert np.concatenate([of.positions for of in mixed]).tolist() == (start + pairs.other).tolist()
        for i in range(len(batch)):
            j, share = pairs.other[i], float(pairs.share[i])
            wanted = share * store.images(rows[batch])[i] + (1 - share) * store.images(rows[batch])[j]
            np.testing.assert_allclose(pixels[i], wanted, atol=1e-3)
            np.testing.assert_allclose(targets[i], share * truth[batch[i]] + (1 - share) * truth[batch[j]], atol=1e-6)
        for b in ranks:
            np.testing.assert_array_equal(b[step].global_truth, targets)


def test_without_mixup_nothing_is_mixed() -> None:
    store = fake_store(9)
    rows, truth = store.index["row"].to_numpy(np.int64), store.index[list(store.labels)].to_numpy(np.float32)
    for batch in loader.train_batches(
        store, loader.EpochSamples(rows, truth, np.arange(9)), batch_size=4, rank=0, world=1
    ):
        assert batch.mixed is None
