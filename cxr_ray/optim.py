"""How weights move: the optimiser, and the learning rate as a pure function of the step."""

import math

import torch
from torch import nn

from cxr_ray import config as cfg


def build(model: nn.Module, optim: cfg.Optim) -> torch.optim.Optimizer:
    """The optimiser over the model's trainable parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, lr=optim.lr, momentum=0.9, nesterov=True, weight_decay=optim.weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    return kind(parameters, lr=optim.lr, weight_decay=optim.weight_decay, fused=True)


def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Lay a loaded state out in memory as the weights lie. Files hold it contiguous, and torch's fused Adam on a processor
    pairs weights with moments by their place in memory: beside channels-last weights it would move the wrong ones."""
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                slots[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def rate(optim: cfg.Optim, step: int, *, steps_per_epoch: int, epochs: int) -> float:
    """Learning rate of global step `step` (from 0): counted, not carried, so that a resumed run needs no scheduler state."""
    warmup = optim.warmup_epochs * steps_per_epoch
    if step < warmup:
        return optim.lr * (step + 1) / math.ceil(warmup)
    if optim.schedule == "constant":
        return optim.lr
    left = max(1.0, steps_per_epoch * epochs - warmup)
    return optim.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / left)))
