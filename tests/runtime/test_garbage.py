"""The garbage collector waits while a process starts, once, and then works as usual. Each test is a process of its own."""

import subprocess
import sys
import textwrap

COUNTED = """
import gc
from cxr_ray.runtime import garbage

found = []  # a collection's generation
gc.callbacks.append(lambda phase, info: found.append(info["generation"]) if phase == "start" else None)
usual = gc.get_threshold()

def make(count):
    return [[] for _ in range(count)]
"""


def run(code: str) -> str:
    """What a new process prints on both streams; it must end with 0."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTED + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_nothing_is_collected_in_the_block_and_as_usual_after_it() -> None:
    run("""
        with garbage.starting():
            kept = make(100_000)
            assert not found, found
        assert gc.get_threshold() == usual
        more = make(10 * usual[0])
        assert len(found) >= 9 and len(gc.callbacks) == 1
    """)


def test_started_ends_it_within_the_block() -> None:
    run("""
        with garbage.starting():
            garbage.started()
            assert gc.get_threshold() == usual
            more = make(10 * usual[0])
            assert len(found) >= 9
            del more
        garbage.started()
    """)


def test_a_process_that_makes_many_objects_is_collected_before_the_block_ends() -> None:
    run("""
        with garbage.starting():
            kept = make(garbage.STARTUP_OBJECTS + 10 * usual[0])
            assert len(found) >= 9 and gc.get_threshold() == usual
    """)


def test_a_process_starts_once() -> None:
    run("""
        for _ in range(2):
            with garbage.starting():
                kept = make(100_000)
                before, frozen = len(found), gc.get_freeze_count()
        assert before > 10  # in the second block
        with garbage.starting():
            pass
        assert gc.get_freeze_count() == frozen
    """)


def test_a_collector_that_is_off_stays_off() -> None:
    run("""
        gc.disable()
        with garbage.starting():
            assert not gc.isenabled()
        assert not gc.isenabled() and gc.get_threshold() == usual and gc.get_freeze_count() == 0
    """)


def test_garbage_of_the_start_is_found_at_the_end_and_no_library_complains() -> None:
    said = run("""
        from cxr_ray.on_ray.torch_backend import load_training

        load_training()
        assert gc.get_freeze_count() > 100_000
    """)
    assert said == ""
