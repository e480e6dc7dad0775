"""Outputs of an epoch, collected on each rank and gathered."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.runtime import distributed
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training.gathered import EpochOutputs
from tests.fakes.ranks import on_ranks
from tests.fakes.store import fake_store
from tests.fakes.trainings import StopAfterPolls, checkpoint_of, config, fit


def test_batches_are_collected_after_restored_ones() -> None:
    outputs = EpochOutputs(3, 1, device=torch.device("cpu"))
    outputs.add(np.array([1]), torch.tensor([[1.0]]))  # of another epoch: a restore replaces it
    outputs.restore(np.array([4, 5]), torch.tensor([[4.0], [5.0]]), batches=2)
    outputs.add(np.array([7]), torch.tensor([[7.0]]))
    positions, logits = outputs.gather()
    assert positions.tolist() == [4, 5, 7] and logits.flatten().tolist() == [4.0, 5.0, 7.0]
    assert outputs.batches == 3


def test_the_next_epoch_starts_empty() -> None:
    outputs = EpochOutputs(2, 1, device=torch.device("cpu"))
    outputs.add(np.array([0, 1]), torch.tensor([[0.0], [1.0]]))
    outputs.clear()
    assert outputs.batches == 0 and len(outputs.gather()[0]) == 0
    outputs.add(np.array([3]), torch.tensor([[3.0]]))
    positions, logits = outputs.gather()
    assert positions.tolist() == [3] and logits.tolist() == [[3.0]]


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(0, 4))
def test_nothing_is_kept_of_the_tensors_of_a_batch(sizes: list[int], spare: int) -> None:
    """They may be in memory that the next step uses."""
    outputs = EpochOutputs(sum(sizes) + spare, 2, device=torch.device("cpu"))
    start = 0
    for size in sizes:
        positions, logits = np.arange(start, start + size), torch.arange(2.0 * start, 2.0 * (start + size)).view(-1, 2)
        outputs.add(positions, logits)
        positions[:] = -1
        logits.fill_(-1.0)
        start += size
    positions, logits = outputs.gather()
    assert positions.tolist() == list(range(start))
    assert logits.flatten().tolist() == [float(i) for i in range(2 * start)]
    assert outputs.batches == len(sizes)


def _gather_unequal_shares(folder: str) -> None:
    rank = torch.distributed.get_rank()
    outputs = EpochOutputs(6, 2, device=torch.device("cpu"))
    outputs.add(np.arange(3 * rank, 3 * rank + 2 + rank), torch.full((2 + rank, 2), float(rank)))
    outputs.add(np.zeros(0, np.int64), torch.zeros(0, 2))  # a rank without rows in the last batch
    positions, logits = outputs.gather()
    torch.save((positions.tolist(), logits), f"{folder}/{rank}.pt")


def test_every_rank_gets_the_rows_of_all_ranks_in_rank_order(tmp_path: Path) -> None:
    on_ranks(2, tmp_path, _gather_unequal_shares, str(tmp_path))
    for rank in (0, 1):
        positions, logits = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert positions == [0, 1, 3, 4, 5] and logits[:, 0].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_a_network_without_batch_norm_gathers_no_statistics(
    tmp_path: Path, poll_every_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather, widths = distributed.gather_rows, []
    monkeypatch.setattr(distributed, "gather_rows", lambda rows: widths.append(rows.shape[1:].numel()) or gather(rows))
    run = fit(config(tmp_path), fake_store(90), StopAfterPolls(6))
    last = checkpoint_of(run.path, "last")
    assert checkpoints.load(last).state["batches"] > 0
    assert widths and 0 not in widths
