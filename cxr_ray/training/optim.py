"""How weights move: the optimiser, the learning rate as a pure function of the step, the moving average of the weights."""

import copy
import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from cxr_ray import config as cfg
from cxr_ray.config.metric_names import Mode, best_of
from cxr_ray.errors import UserError

# One-cycle's shape, as torch's OneCycleLR has it (Smith and Topin 2019): the share of steps that rise, and how far
# under the highest rate it starts and ends. The momentum is not cycled.
RISE, START, END = 0.3, 1 / 25, 1 / 25 / 1e4


def build(model: nn.Module, optim: cfg.Optim, head: Collection[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """The optimiser over all parameters of `model`; one that is frozen has no gradient and stays as it is, state and all.

    `head` learns at `head_lr_factor` times the rate. With `decay_norms` false, parameters of one dimension (biases, the
    weights of norms) do not decay (He et al. 2019, "Bag of tricks", section 3.1: no bias decay). Raises `UserError` for a head
    that is to have a rate of its own and is not known."""
    heads = {id(p) for p in head}
    if optim.head_lr_factor != 1.0 and not heads:
        raise UserError("optim.head_lr_factor: no layer of this model is known to be its head; set it to 1")
    # By what a parameter is and not by the values of knobs: a search may change these in mid-training, and a state fits
    # only an optimiser of the same groups.
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in model.parameters():
        groups.setdefault((id(p) in heads, p.ndim > 1), []).append(p)
    made = [
        {
            "params": held,
            "factor": optim.head_lr_factor if of_head else 1.0,
            "weight_decay": optim.weight_decay if optim.decay_norms or several else 0.0,
        }
        for (of_head, several), held in groups.items()
    ]
    if optim.name == "sgd":
        # Not fused: where fp16 leaves the first step out, torch's fused SGD goes on with momentum that was never written.
        return torch.optim.SGD(made, lr=optim.lr, momentum=0.9, nesterov=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    return kind(made, lr=optim.lr, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let every group of parameters move at `rate` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up moments that another optimiser of the same shape gave; the knobs (decay, factors) stay this one's own, so that
    a search may change them in mid-training."""
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, hyperparameters in zip(optimizer.param_groups, own, strict=True):
        group.update(hyperparameters)
    lay_out_state(optimizer)


def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Lay a loaded state out in memory as the weights lie. Files hold it contiguous, and torch's fused Adam on a processor
    pairs weights with moments by their place in memory: beside channels-last weights it would move the wrong ones."""
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                slots[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def rate(optim: cfg.Optim, step: int, *, steps_per_epoch: int, epochs: int, drops: int = 0) -> float:
    """Learning rate of global step `step` (from 0): counted, not carried, so that a resumed run needs no scheduler state.

    `drops` is what `plateau` counts. onecycle is torch's OneCycleLR of the same number of steps; step drops at every
    `drop_epochs`-th epoch, counted from the start of the training."""
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
        return _between(optim.lr, optim.lr * END, (step - top) / max(1.0, total - 1.0 - top))
    if optim.schedule == "step":
        drops = step // (steps_per_epoch * optim.drop_epochs)
    return optim.lr * optim.drop_factor**drops


def plateau(values: Sequence[float | None], *, mode: Mode, wait: int) -> int:
    """How often the rate has dropped after the epochs that gave `values`: once `wait` epochs in a row brought no better one,
    then counting anew (`> 0` is what early stopping asks). A pure function of the metric's history (`mode`: max or min is
    better), so that a resumed run needs no scheduler state.

    torch's ReduceLROnPlateau with `patience=wait - 1`, `threshold=0`, but undefined values (None) are never better."""
    best, since, drops = None, 0, 0
    for value in values:
        better = value is not None and best_of([best, value], mode) == 1
        best, since = (value, 0) if better else (best, since + 1)
        if since == wait:
            since, drops = 0, drops + 1
    return drops


class Ema:
    """The exponential moving average of a model's weights and running statistics: a model of its own, to judge and to keep.

    After step t (from 1) the average moves by 1 - min(decay, t / (9 + t)) of the way to the weights: the first steps, when
    the weights are still those they were drawn with, count less (TensorFlow's ExponentialMovingAverage with num_updates).
    The step is counted by the caller: the state is the average's tensors alone."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards `model`, which has just made its `step`-th step (from 1)."""
        share = 1.0 - min(self.decay, step / (9.0 + step))
        mine, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        # One call for all: several hundred small kernels would show in a step on a GPU.
        torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], share)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The average's tensors, under the model's own names."""
        return dict(self.model.state_dict())

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take up an average that `state_dict` gave."""
        self.model.load_state_dict(state)


def _between(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
