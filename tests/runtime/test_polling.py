"""When a training looks up: about once a second, whatever its steps last."""

from types import SimpleNamespace

import pytest

from cxr_ray.runtime import polling
from cxr_ray.runtime.context import LocalContext


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands until it is told."""
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(polling.time, "monotonic", lambda: made.now)
    return made


def steps_until_due(held: polling.Watch, clock: SimpleNamespace, each_s: float) -> int:
    """Steps of `each_s` seconds until it looks up."""
    for step in range(1, 1000):
        clock.now += each_s
        held.tick()
        if held.due():
            held.poll()
            return step
    raise AssertionError("it never looks up")


def test_it_looks_up_once_a_second(clock: SimpleNamespace) -> None:
    held = polling.Watch(LocalContext(), minutes=None)
    assert [steps_until_due(held, clock, 0.125) for _ in range(3)] == [1, 8, 8]
    assert [steps_until_due(held, clock, 5.0) for _ in range(3)] == [8, 1, 1]


def test_quick_batches_of_judging_do_not_put_off_what_slow_steps_wait_for(clock: SimpleNamespace) -> None:
    """A stop, or a checkpoint, would wait for hundreds of steps."""
    held = polling.Watch(LocalContext(), minutes=None)
    assert [steps_until_due(held, clock, 0.001) for _ in range(2)] == [1, polling.MOST_STEPS]
    held.restart()
    assert [steps_until_due(held, clock, 0.25) for _ in range(3)] == [1, 4, 4]
