"""When ranks poll: about once a second, whatever the duration of a step."""

from types import SimpleNamespace

import pytest

from cxr_ray.runtime import polling
from cxr_ray.runtime.context import LocalContext


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only the test advances."""
    fake = SimpleNamespace(now=100.0)
    monkeypatch.setattr(polling.time, "monotonic", lambda: fake.now)
    return fake


def steps_until_poll(poller: polling.Poller, clock: SimpleNamespace, step_s: float) -> int:
    """Steps of `step_s` seconds until the next poll."""
    for step in range(1, 1000):
        clock.now += step_s
        poller.tick()
        if poller.due():
            poller.poll()
            return step
    raise AssertionError("it never polls")


def test_it_polls_once_a_second(clock: SimpleNamespace) -> None:
    poller = polling.Poller(LocalContext(), save_minutes=None)
    assert [steps_until_poll(poller, clock, 0.125) for _ in range(3)] == [1, 8, 8]
    assert [steps_until_poll(poller, clock, 5.0) for _ in range(3)] == [8, 1, 1]


def test_quick_batches_of_an_evaluation_do_not_delay_the_polls_of_slow_steps(clock: SimpleNamespace) -> None:
    """A stop, or a checkpoint, would wait for hundreds of steps."""
    poller = polling.Poller(LocalContext(), save_minutes=None)
    assert [steps_until_poll(poller, clock, 0.001) for _ in range(2)] == [1, polling.MAX_STEPS]
    poller.restart()
    assert [steps_until_poll(poller, clock, 0.25) for _ in range(3)] == [1, 4, 4]
