"""Optimiser, learning rate as a pure function of the step, moving average of the weights. The training step: learner.py."""

import copy
import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from cxr_ray import config as cfg
from cxr_ray.config.metric_names import Mode, best_of
from cxr_ray.errors import UserError

# The shape of one-cycle as in torch's OneCycleLR (Smith and Topin 2019): the share of rising steps, and the first and last rate
# relative to the highest. The momentum is not cycled.
RISE, START, END = 0.3, 1 / 25, 1 / 25 / 1e4


def build(model: nn.Module, optim: cfg.Optim, head: Collection[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """The optimiser over all parameters of `model`. Frozen ones have no gradient, so neither they nor their state change.

    The rate of `head` is `head_lr_factor` times that of the rest. With `decay_norms` false, parameters of one dimension (biases,
    weights of norms) do not decay (He et al. 2019, "Bag of tricks", section 3.1: no bias decay). Raises `UserError` if
    `head_lr_factor` is not 1 and `head` is empty."""
    heads = {id(p) for p in head}
    if optim.head_lr_factor != 1.0 and not heads:
        raise UserError("optim.head_lr_factor: no layer of this model can be identified as its head; set it to 1")
    # Groups depend on the kind of parameter, not on hyperparameters: a search may change those during training, and a state can
    # only be loaded into an optimiser with the same groups.
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in model.parameters():
        groups.setdefault((id(p) in heads, p.ndim > 1), []).append(p)
    param_groups = [
        {
            "params": params,
            "factor": optim.head_lr_factor if in_head else 1.0,
            "weight_decay": optim.weight_decay if optim.decay_norms or is_matrix else 0.0,
        }
        for (in_head, is_matrix), params in groups.items()
    ]
    if optim.name == "sgd":
        # Not fused: if fp16 skips the first step, torch's fused SGD continues with uninitialised momentum.
        return torch.optim.SGD(param_groups, lr=optim.lr, momentum=0.9, nesterov=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    return kind(param_groups, lr=optim.lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group to `rate` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the moments of another optimiser of the same shape. Hyperparameters (decay, factors) remain this optimiser's own, so
    that a search may change them during training."""
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, hyperparameters in zip(optimizer.param_groups, own, strict=True):
        group.update(hyperparameters)
    match_memory_format(optimizer)


def match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Convert a loaded state to the memory format of the weights.

    Files store it contiguously, and torch's fused Adam on a CPU pairs weights with moments by memory position: with channels-last
    weights it would update the wrong ones."""
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                slots[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def learning_rate(optim: cfg.Optim, step: int, *, steps_per_epoch: int, epochs: int, drops: int = 0) -> float:
    """Learning rate of global step `step` (from 0): a function of the step, so that a resumed run needs no scheduler state.

    `drops` is the result of `plateau_drops`. onecycle is torch's OneCycleLR with the same number of steps; step drops after
    every `drop_epochs` epochs, counted from the start of the training."""
    warmup = optim.warmup_epochs * steps_per_epoch
    if step < warmup:
        return optim.lr * (step + 1) / math.ceil(warmup)
    total = steps_per_epoch * epochs
    if optim.schedule == "cosine":
        return _between(optim.lr, 0.0, (step - warmup) / max(1.0, total - warmup))
    if optim.schedule == "onecycle":
        top = RISE * total - 1.0
        if step <= top:
            return _between(optim.lr * START, optim.lr, step / top if top > 0 else 1.0)
        return _between(optim.lr, optim.lr * END, (step - top) / (total - 1.0 - top))
    if optim.schedule == "step":
        drops = step // (steps_per_epoch * optim.drop_epochs)
    return optim.lr * optim.drop_factor**drops


def plateau_drops(values: Sequence[float | None], *, mode: Mode, wait: int) -> int:
    """Number of rate drops after epochs with these `values` of the monitored metric (`mode`: whether max or min is better).

    The rate drops after `wait` epochs in a row without a better value; then the count restarts. A function of the history, so
    that a resumed run needs no scheduler state. It equals torch's ReduceLROnPlateau with `patience=wait - 1`, `threshold=0`,
    except that undefined values (None) are never better."""
    best, since, drops = None, 0, 0
    for value in values:
        better = value is not None and best_of([best, value], mode) == 1
        best, since = (value, 0) if better else (best, since + 1)
        if since == wait:
            since, drops = 0, drops + 1
    return drops


class Ema:
    """The exponential moving average of a model's weights and running statistics, as a model that is evaluated and saved.

    After step t (from 1) the average moves by 1 - min(decay, t / (9 + t)) of the way to the weights, so that the first steps,
    close to the random initial weights, count less (TensorFlow's ExponentialMovingAverage with num_updates). The caller
    counts the steps: the state consists of the average's tensors only."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards `model` after its `step`-th step (from 1)."""
        share = 1.0 - min(self.decay, step / (9.0 + step))
        average, current = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in average.items() if value.is_floating_point()]
        # One call for all: several hundred small kernels would slow down a step on a GPU.
        torch._foreach_lerp_([average[name] for name in floats], [current[name] for name in floats], share)
        for name in average.keys() - set(floats):
            average[name].copy_(current[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The average's tensors, under the model's names."""
        return dict(self.model.state_dict())

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load what `state_dict` returned."""
        self.model.load_state_dict(state)


def _between(start: float, end: float, share: float) -> float:
    """Interpolate from `start` to `end` along half a cosine."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
