"""What all ranks decide together between steps, and between batches of an evaluation: whether to stop, whether the time limit is
reached, whether a checkpoint is due, whether a loss was not finite. They poll about once a second and get the same decision;
acting on it is the trainer's task.
"""

import math
import time
from typing import NamedTuple

import torch

from cxr_ray.runtime import distributed
from cxr_ray.runtime.context import Context

POLL_S = 1.0
"""Often enough to stop within the seconds that a scheduler grants, rare enough for the all-reduce (and the GPU sync) to cost
nothing."""
MAX_STEPS = 256
"""Between two polls."""


class Decision(NamedTuple):
    """What all ranks do now."""

    stop: bool
    """A stop was requested: write a checkpoint and end."""
    time_over: bool
    """`train.max_time` is reached: end the epoch here, evaluate it, and finish."""
    save: bool
    """A checkpoint is due."""
    bad_step: int | None
    """The first step whose loss was not finite, on any rank."""


class Poller:
    """One rank's side of the polling. `save_minutes`: between checkpoints; `left_s`: seconds that the training may still take."""

    def __init__(self, context: Context, *, save_minutes: float | None, left_s: float | None = None) -> None:
        self._context = context
        self._save_every_s = math.inf if save_minutes is None else save_minutes * 60
        now = time.monotonic()
        self._deadline = math.inf if left_s is None else now + left_s
        self._saved = self._polled = now
        self._steps_since = 0
        self._poll_after = 1  # steps until the next poll, the same on every rank
        # A buffer made once, not a list of tensors, which would lie between the blocks of the steps' activations.
        self._losses = torch.zeros(MAX_STEPS, device=context.device)
        self._steps: list[int] = []

    def restart(self) -> None:
        """Call when steps of another duration begin (training, evaluation): polls after the first of them."""
        self._polled, self._steps_since, self._poll_after = time.monotonic(), 0, 1

    def record_loss(self, step: int, loss: torch.Tensor) -> None:
        """Record the loss of `step` and count the step; at most `MAX_STEPS` between two polls. Does not wait for the value."""
        self._losses[len(self._steps)] = loss.detach()
        self._steps.append(step)
        self.tick()

    def tick(self) -> None:
        """Count a step, or a batch of an evaluation. Every rank counts equally many."""
        self._steps_since += 1

    def due(self) -> bool:
        """Whether to poll now: after equally many steps on every rank."""
        return self._steps_since >= self._poll_after

    def poll(self) -> Decision:
        """The decision of all ranks. Every rank calls it after the same step."""
        context, now = self._context, time.monotonic()
        bad = math.inf
        if self._steps:
            finite = self._losses[: len(self._steps)].isfinite().tolist()
            bad = min((step for step, good in zip(self._steps, finite, strict=True) if not good), default=bad)
            self._steps.clear()
        steps = 0.0
        time_over = save = False
        if context.rank == 0:  # one clock
            step_s = (now - self._polled) / max(1, self._steps_since)
            steps = min(MAX_STEPS, max(1, int(POLL_S / max(step_s, 1e-6))))
            time_over = now >= self._deadline
            save = now - self._saved >= self._save_every_s
        save |= context.should_save()  # on every rank: Ray's implementation waits for all of them
        own = torch.tensor([context.should_stop(), time_over, save, steps, -bad], dtype=torch.float32)
        stop, over, save_, steps, bad = distributed.max_over_ranks(own.to(context.device)).tolist()
        self._polled, self._steps_since, self._poll_after = now, 0, int(steps)
        if save_ or stop or over:
            self._saved = now
        return Decision(bool(stop), bool(over), bool(save_), None if bad == -math.inf else int(-bad))
