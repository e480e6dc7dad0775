"""SIGTERM is handled within a block, in the main thread."""

import os
import signal
import threading

from cxr_ray.runtime import signals


def test_it_is_handled_only_within_the_block() -> None:
    calls: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with signals.on_sigterm(lambda: calls.append("called")):
        os.kill(os.getpid(), signal.SIGTERM)
        assert calls == ["called"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_changes() -> None:
    before, handlers = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with signals.on_sigterm(lambda: None):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]
