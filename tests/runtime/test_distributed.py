"""Errors and results across ranks."""

import pytest
import torch
import torch.distributed as dist

from cxr_ray.errors import UserError
from cxr_ray.runtime import distributed
from tests.fakes.ranks import on_ranks


def _one_rank_lacks_a_file() -> None:
    rank = dist.get_rank() if dist.is_initialized() else 0

    def work() -> int:
        if rank == 1:
            raise UserError("node 1 has no weights.pth")
        return rank

    if dist.is_initialized():
        with pytest.raises(UserError, match=r"node 1 has no weights\.pth"):
            distributed.all_or_none(work)
    assert distributed.all_or_none(lambda: rank + 5) == rank + 5


@pytest.mark.parametrize("world", [1, 2])
def test_a_user_error_of_one_rank_is_raised_on_all(world, tmp_path):
    on_ranks(world, tmp_path, _one_rank_lacks_a_file)


def test_running_statistics_are_on_the_models_device_even_if_there_are_none():
    """NCCL accepts no CPU tensor, not even an empty one."""
    assert distributed.running_statistics(torch.nn.Linear(2, 2, device="meta")).device.type == "meta"
