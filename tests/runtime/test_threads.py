"""A background thread ends with its block."""

import threading

import pytest

from cxr_ray.runtime.threads import background


def test_the_block_ends_only_after_the_thread() -> None:
    events: list[str] = []
    started = threading.Event()

    def work(ended: threading.Event) -> None:
        events.append(threading.current_thread().name)
        started.set()
        assert ended.wait(10)
        events.append("ended")

    with background(work, name="cxr-test"):
        assert started.wait(10)
        assert events == ["cxr-test"]
    assert events == ["cxr-test", "ended"]


def test_the_thread_also_ends_after_an_error_in_the_block() -> None:
    ends: list[threading.Event] = []
    started = threading.Event()

    def work(ended: threading.Event) -> None:
        ends.append(ended)
        started.set()
        ended.wait(10)

    with pytest.raises(ZeroDivisionError), background(work, name="cxr-test"):
        assert started.wait(10)
        raise ZeroDivisionError
    assert ends[0].is_set() and "cxr-test" not in [thread.name for thread in threading.enumerate()]
