"""The garbage collector looks through new objects only while a process starts, once, and then works as usual. Each test is a process of its
own."""

import subprocess
import sys
import textwrap

COUNTED = """
import gc, weakref
from cxr_ray.runtime import garbage

found = []  # a collection's generation
gc.callbacks.append(lambda phase, info: found.append(info["generation"]) if phase == "start" else None)
usual = gc.get_threshold()

def make(count):
    return [[] for _ in range(count)]

class Large:  # in a cycle, as an image may be
    def __init__(self):
        self.own = self

def dead():
    return weakref.ref(Large())
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


def test_only_new_objects_are_looked_through_in_the_block_and_all_as_usual_after_it() -> None:
    run("""
        with garbage.starting():
            kept = make(100_000)
            assert len(found) > 100 and set(found) == {0}, found
        assert gc.get_threshold() == usual
        more = make(20 * usual[0])
        assert set(found) > {0} and len(gc.callbacks) == 1
    """)


def test_new_garbage_is_freed_in_the_block() -> None:
    run("""
        with garbage.starting():
            image = dead()
            kept = make(2 * usual[0])
            assert image() is None
    """)


def test_what_was_kept_for_long_is_freed_when_someone_asks() -> None:
    run("""
        with garbage.starting():
            image = Large()
            kept, image = make(10 * usual[0]), weakref.ref(image)
            assert image() is not None
            gc.collect()  # for room, after a step for which there was none
            assert image() is None and gc.get_threshold() == usual
    """)


def test_no_garbage_stays_after_the_block() -> None:
    run("""
        of_notebook = Large()
        with garbage.starting():
            kept = make(10 * usual[0])
        of_notebook = weakref.ref(of_notebook)
        gc.collect()
        assert of_notebook() is None and gc.get_freeze_count() == 0
    """)


def test_started_ends_it_within_the_block() -> None:
    run("""
        with garbage.starting():
            garbage.started()
            assert gc.get_threshold() == usual and len(gc.callbacks) == 1
            more = make(20 * usual[0])
            assert set(found) > {0}
            del more
        garbage.started()
    """)


def test_a_process_that_makes_many_objects_is_collected_as_usual_before_the_block_ends() -> None:
    run("""
        with garbage.starting():
            image = Large()
            kept, image = make(10 * usual[0]), weakref.ref(image)
            kept += make(garbage.STARTUP_OBJECTS + 10 * usual[0])
            assert image() is None and gc.get_threshold() == usual
    """)


def test_a_process_starts_once() -> None:
    run("""
        for _ in range(2):
            del found[:]
            with garbage.starting():
                kept = make(100_000)
                collected = set(found)
        assert collected > {0}  # in the second block
    """)


def test_what_others_set_in_the_block_stays() -> None:
    run("""
        with garbage.starting():
            gc.set_threshold(5_000, 20, 30)
            gc.callbacks.clear()
        assert gc.get_threshold() == (5_000, 20, 30)
    """)


def test_any_thread_may_end_it() -> None:
    said = run("""
        import sys, threading

        sys.setswitchinterval(1e-6)
        with garbage.starting():
            threads = [threading.Thread(target=garbage.started) for _ in range(50)]
            for thread in threads:
                thread.start()
            kept = make(20_000)
            for thread in threads:
                thread.join()
        assert gc.get_threshold() == usual and len(gc.callbacks) == 1
    """)
    assert said == ""


def test_a_collector_that_is_off_stays_off() -> None:
    run("""
        gc.disable()
        with garbage.starting():
            assert not gc.isenabled()
        assert not gc.isenabled() and gc.get_threshold() == usual
        gc.enable()
        gc.set_threshold(0)
        with garbage.starting():
            pass
        assert gc.get_threshold()[0] == 0
    """)


def test_a_worker_looks_through_its_imports_at_the_end_and_no_library_complains() -> None:
    said = run("""
        from cxr_ray.on_ray.torch_backend import load_training

        load_training()
        assert gc.get_freeze_count() > 100_000
    """)
    assert said == ""
