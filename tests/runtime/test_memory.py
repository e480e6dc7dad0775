"""How many rows fit in device memory, alone and in a training with `train.micro_batch: auto`. Pinned memory needs a GPU."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from cxr_ray.errors import OutOfMemory, UserError
from cxr_ray.runtime import memory
from cxr_ray.runtime.context import LocalContext
from tests.fakes import greedy_model
from tests.fakes.ranks import on_ranks
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, final_weights, fit


def step_with_room_for(most: int):
    def step(rows: int) -> None:
        tried.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("no room")

    tried: list[int] = []
    return step, tried


@pytest.mark.parametrize(("most", "tried"), [(64, [64]), (20, [64, 32, 16]), (1, [64, 32, 16, 8, 4, 2, 1])])
def test_it_halves_until_it_fits(most, tried):
    step, seen = step_with_room_for(most)
    assert memory.rows_that_fit(step, 64) == tried[-1] and seen == tried


def test_odd_numbers_are_halved_upwards():
    step, seen = step_with_room_for(1)
    assert memory.rows_that_fit(step, 7) == 1 and seen == [7, 4, 2, 1]


def test_too_little_for_one_row_is_a_user_error_and_other_errors_pass():
    def fails(rows: int) -> None:
        raise ZeroDivisionError

    step, _ = step_with_room_for(0)
    with pytest.raises(UserError, match="not one image of this size fits"):
        memory.rows_that_fit(step, 4)
    with pytest.raises(ZeroDivisionError):
        memory.rows_that_fit(fails, 4)


GREEDY = {"model": {"name": "greedy"}}  # registered by the import above


def test_auto_trains_as_micro_batches_of_what_fits(tmp_path, monkeypatch, capsys):
    """The result equals a training with that number given: the search changes no weights, statistics or random numbers."""
    monkeypatch.setenv("CXR_RAY_TEST_ROWS", "5")
    store = fake_store(70, unknown=0.3)
    greedy_model.Greedy.seen.clear()
    runs = {}
    for name, rows in (("auto", "auto"), ("given", 4)):
        hyperparameters = config(tmp_path, name=name, **GREEDY, train={"micro_batch": rows})
        runs[name] = fit(hyperparameters, store, LocalContext())
        seen = greedy_model.Greedy.seen
        if rows == "auto":
            assert seen[:3] == [16, 8, 4]
        assert set(seen[3:]) <= {1, 2, 3, 4}
    a, b = final_weights(runs["auto"]), final_weights(runs["given"])
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert capsys.readouterr().out.count("micro-batches of 4 rows: a worker's share of 16 does not fit") == 1


def test_a_step_that_does_not_fit_says_how_to_fix_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_RAY_TEST_ROWS", "4")
    with pytest.raises(OutOfMemory, match=r"set train\.micro_batch to auto") as caught:
        fit(config(tmp_path, name="full", **GREEDY), fake_store(50))
    assert "\n" not in str(caught.value)


def test_auto_uses_the_full_share_if_it_fits(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_RAY_TEST_ROWS", "100")
    store = fake_store(50)
    a, b = (
        final_weights(fit(config(tmp_path, name=str(rows), **GREEDY, train={"micro_batch": rows}), store))
        for rows in ("auto", None)
    )
    assert all(torch.equal(a[k], b[k]) for k in a)


def _two_ranks(folder):
    context = LocalContext(quiet=True)
    os.environ["CXR_RAY_TEST_ROWS"] = "5" if context.rank else "50"  # the second device has less memory
    greedy_model.Greedy.seen.clear()
    fit(config(folder, name="two", **GREEDY, train={"micro_batch": "auto"}), fake_store(50), context)
    assert max(greedy_model.Greedy.seen[2:]) == 4  # of a share of 8: both use what fits the smaller one


def test_ranks_agree_on_what_fits_the_smallest_device(tmp_path):
    on_ranks(2, tmp_path, _two_ranks, tmp_path)


def _too_small_for_one(folder):
    context = LocalContext(quiet=True)
    os.environ["CXR_RAY_TEST_ROWS"] = "0" if context.rank else "50"
    with pytest.raises(UserError, match="not one image of this size fits"):
        fit(config(folder, name="none", **GREEDY, train={"micro_batch": "auto"}), fake_store(50), context)


def test_if_nothing_fits_on_one_rank_the_others_do_not_wait(tmp_path):
    on_ranks(2, tmp_path, _too_small_for_one, tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_memory_has_the_same_values():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    pinned = memory.pin(array)
    np.testing.assert_array_equal(pinned, array)
    assert torch.from_numpy(pinned).is_pinned()


HEAP = """
import resource, sys
import torch
from cxr_ray.runtime import memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    memory.keep_heap()
def step():  # activations of a step, freed together
    return [torch.ones(5 * 2**20) for _ in range(6)]
step(); step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_a_step_reuses_the_memory_of_the_one_before_unless_the_user_chose_otherwise() -> None:
    """Counted in page faults, next to a process whose user wants everything returned. What glibc does on its own varies from run to run."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    kept, returned = (
        int(
            subprocess.run(
                [sys.executable, "-c", HEAP, "keep"], env=environment, capture_output=True, check=True
            ).stdout
        )
        for environment in (plain, {**plain, "MALLOC_TRIM_THRESHOLD_": "0"})
    )
    assert kept < returned / 4


@pytest.mark.parametrize(
    ("device", "count", "size", "rows"),
    [
        ("cpu", 40, (224, 224), [16, 16, 8]),
        ("cpu", 7, (512, 512), [3, 3, 1]),
        ("cpu", 2, (1200, 1000), [1, 1]),
        ("cpu", 64, (64, 64), [64]),
        ("cpu", 0, (224, 224), [0]),
        ("cuda", 40, (224, 224), [40]),
        ("cuda", 0, (224, 224), [0]),
    ],
)
def test_a_cpu_takes_a_batch_of_large_images_in_parts(
    device: str, count: int, size: tuple[int, int], rows: list[int]
) -> None:
    batch = np.arange(count)[:, None, None] * np.ones((1, 2, 2))  # its own size does not matter
    parts = memory.parts_for(torch.device(device), batch, size)
    assert [len(part) for part in parts] == rows
    assert np.array_equal(np.concatenate(parts), batch)
