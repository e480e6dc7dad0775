"""SIGTERM answered for the time of a block, in the main thread."""

import os
import signal
import threading

from cxr_ray.runtime import signals


def test_it_is_answered_within_the_block_alone() -> None:
    heard: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with signals.answered(lambda: heard.append("asked")):
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["asked"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_elsewhere_than_in_the_main_thread_nothing_changes() -> None:
    before, held = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with signals.answered(lambda: None):
            held.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert held == [before]
