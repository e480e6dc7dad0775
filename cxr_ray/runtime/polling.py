"""What a training looks up for between its steps, and between the batches that it judges: a stop that was asked for, its time,
a checkpoint that is due, a loss that is not a number. All ranks look up together, about once a second, and come to one answer.
"""

import math
import time
from typing import NamedTuple

import torch

from cxr_ray.runtime import distributed
from cxr_ray.runtime.context import Context

POLL_S = 1.0
"""Often enough to stop within the seconds that a scheduler gives, too rare for the ranks' talk (and a GPU's wait) to cost."""
MOST_STEPS = 256


class Answer(NamedTuple):
    """What all ranks do now."""

    stop: bool
    """Someone asked for it: write a checkpoint and end."""
    over: bool
    """`train.max_time` is over: end the epoch here, judge it, and end, finished."""
    save: bool
    """A checkpoint is due."""
    bad_step: int | None
    """The first step whose loss was not finite, on any rank."""


class Watch:
    """One rank's side of looking up. `minutes`: between checkpoints; `left_s`: seconds that the training may still take."""

    def __init__(self, context: Context, *, minutes: float | None, left_s: float | None = None) -> None:
        self._context = context
        self._every_s = math.inf if minutes is None else minutes * 60
        now = time.monotonic()
        self._ends = math.inf if left_s is None else now + left_s
        self._saved = self._looked = now
        self._steps_since = 0
        self._next = 1  # steps until the next look, the same on every rank
        self._losses: list[tuple[int, torch.Tensor]] = []

    def restart(self) -> None:
        """Other work begins (training, judging), whose steps last otherwise: the first of them is looked up after."""
        self._looked, self._steps_since, self._next = time.monotonic(), 0, 1

    def note(self, step: int, loss: torch.Tensor) -> None:
        """Step `step` had this loss; its value is not waited for."""
        self._losses.append((step, loss.detach()))
        self.tick()

    def tick(self) -> None:
        """A step, or a batch that was judged, is done; equally many on every rank."""
        self._steps_since += 1

    def due(self) -> bool:
        """Whether to look up now: after equally many steps on every rank."""
        return self._steps_since >= self._next

    def poll(self) -> Answer:
        """The answer of all ranks. Each calls it after the same step."""
        context, now = self._context, time.monotonic()
        bad = math.inf
        if self._losses:
            finite = torch.stack([loss for _, loss in self._losses]).isfinite().tolist()
            bad = min((step for (step, _), good in zip(self._losses, finite, strict=True) if not good), default=bad)
            self._losses.clear()
        steps = 0.0
        over = save = False
        if context.rank == 0:  # one clock
            each = (now - self._looked) / max(1, self._steps_since)
            steps = min(MOST_STEPS, max(1, int(POLL_S / max(each, 1e-6))))
            over = now >= self._ends
            save = now - self._saved >= self._every_s
        save |= context.should_save()  # on every rank: Ray's own answer waits for all of them
        said = torch.tensor([context.should_stop(), over, save, steps, -bad], dtype=torch.float32)
        stop, over_, save_, steps, bad = distributed.most_of_ranks(said.to(context.device)).tolist()
        self._looked, self._steps_since, self._next = now, 0, int(steps)
        if save_ or stop or over_:
            self._saved = now
        return Answer(bool(stop), bool(over_), bool(save_), None if bad == -math.inf else int(-bad))
