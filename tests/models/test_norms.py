"""Batch norm on a single value per channel, and over all ranks."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cxr_ray import config, models
from cxr_ray.data.loader import rank_slice
from cxr_ray.errors import UserError
from cxr_ray.models import norms
from tests.fakes.networks import build, gray


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0", "googlenet"])
def test_one_small_image_trains_and_leaves_statistics_of_single_values_unchanged(name: str) -> None:
    """torch refuses one value per channel; there the running statistics apply, everywhere else the batch's own."""
    model = build(name, dropout=0.0)
    model(gray(4, (32, 32)))  # running statistics that differ from the initial ones
    seen: dict[str, Tensor] = {}
    for layer, module in model.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda m, x, y, layer=layer: seen.update({layer: torch.stack([x[0].detach(), y.detach()])})
            )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    models.head_logits(model(gray(1, (32, 32), seed=1)))[0].square().sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    single_values = 0
    for layer, (x, y) in seen.items():
        module = model.backbone.get_submodule(layer)
        prefix = f"backbone.{layer}"
        state = {key.rpartition(".")[2]: value for key, value in before.items() if key.rpartition(".")[0] == prefix}
        single = x[0, 0].numel() == 1
        single_values += single
        mean, var = state["running_mean"], state["running_var"]
        if not single:
            mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        scale = state["weight"] / (var + module.eps).sqrt()
        expected = (x - mean[:, None, None]) * scale[:, None, None] + state["bias"][:, None, None]
        torch.testing.assert_close(y, expected, atol=1e-3, rtol=1e-3)
        assert torch.equal(module.running_mean, state["running_mean"]) == single  # type: ignore[arg-type]
        assert int(module.num_batches_tracked) == int(state["num_batches_tracked"]) + (not single)  # type: ignore[arg-type]
    assert single_values


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 9))
def test_synchronized_batch_norm_needs_a_row_on_every_rank(rows: int, size: int, workers: int) -> None:
    """Ranks with rows would wait in every norm for one without: refused before the first step, with a size that works."""

    def has_empty_rank(size: int) -> bool:
        batches = [range(rows)[start : start + size] for start in range(0, rows, size)]
        return any(not len(b[rank_slice(len(b), rank, workers)]) for b in batches for rank in range(workers))

    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    train = config.Train(batch_size=size, workers=workers, sync_batch_norm=True)

    def synchronize(train: config.Train) -> None:
        norms.synchronize(network, torch.device("cuda"), train, rows=rows, world=workers)

    if not has_empty_rank(size):
        synchronize(train)
        assert isinstance(network[1], nn.SyncBatchNorm if workers > 1 else nn.BatchNorm2d)
        return
    with pytest.raises(UserError, match=r"workers needs a row: set train\.(batch_size|workers) to (\d+)") as caught:
        synchronize(train)
    fix = re.search(r"set train\.(\w+) to (\d+)", str(caught.value))
    assert fix is not None and type(network[1]) is nn.BatchNorm2d
    if fix[1] == "batch_size":
        assert not has_empty_rank(int(fix[2])) and int(fix[2]) >= size
    else:
        assert rows < workers and int(fix[2]) == rows
