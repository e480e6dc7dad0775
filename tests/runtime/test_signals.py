"""SIGTERM and SIGINT are handled within a block, in the main thread."""

import os
import signal
import threading
from contextlib import AbstractContextManager

import pytest

from cxr_ray.runtime import signals
from tests.fakes.waiting import until


@pytest.fixture
def calls() -> list[str]:
    return []


def on_stop(calls: list[str], *, at_once: bool = False) -> AbstractContextManager[signals.Interrupt]:
    return signals.on_stop(
        lambda: calls.append("request"), log=calls.append, message="interrupted", at_once=lambda: at_once
    )


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_the_first_interrupt_is_a_request_and_the_second_ends_at_once(calls: list[str]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), on_stop(calls) as interrupt:
        assert not interrupt.requested
        send(signal.SIGINT)
        assert interrupt.requested
        until(lambda: calls == ["request", "interrupted"], 10)
        send(signal.SIGINT)
    assert calls == ["request", "interrupted"]
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_sigterm_is_the_same_request_and_no_interrupt(calls: list[str]) -> None:
    with on_stop(calls) as interrupt:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
    assert calls == ["request", "request"] and not interrupt.requested


def test_after_sigterm_an_interrupt_does_not_end_at_once(calls: list[str]) -> None:
    with on_stop(calls) as interrupt:
        send(signal.SIGTERM)
        send(signal.SIGINT)
    assert interrupt.requested


def test_an_interrupt_ends_at_once_where_nothing_may_be_written(calls: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt), on_stop(calls, at_once=True):
        send(signal.SIGINT)
    assert calls == []


def test_an_ignored_interrupt_stays_ignored(calls: list[str]) -> None:
    """A shell starts programs in the background like this."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with on_stop(calls) as interrupt:
            send(signal.SIGINT)
        assert calls == [] and not interrupt.requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_is_handled_only_within_the_block() -> None:
    calls: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with signals.on_sigterm(lambda: calls.append("called")):
        os.kill(os.getpid(), signal.SIGTERM)
        assert calls == ["called"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_ends_a_block_in_good_order() -> None:
    before, closed = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit) as ended, signals.exit_on_sigterm():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            closed.append(True)
    assert ended.value.code == 128 + signal.SIGTERM and closed and signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_changes() -> None:
    before, handlers = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with signals.on_sigterm(lambda: None), on_stop([]):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]
