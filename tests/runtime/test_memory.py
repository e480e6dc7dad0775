"""How many rows fit at once; and a training that finds it out. Pinned pages want a GPU."""

import os

import numpy as np
import pytest
import torch

from cxr_ray.errors import OutOfMemory, UserError
from cxr_ray.runtime import memory
from cxr_ray.runtime.context import LocalContext
from tests.fakes import greedy_model
from tests.fakes.ranks import on_ranks
from tests.fakes.store import fake_store
from tests.training.test_trainer import config, final_weights, fit


def room_for(most: int):
    def step(rows: int) -> None:
        tried.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("no room")

    tried: list[int] = []
    return step, tried


@pytest.mark.parametrize(("most", "tried"), [(64, [64]), (20, [64, 32, 16]), (1, [64, 32, 16, 8, 4, 2, 1])])
def test_it_halves_until_it_fits(most, tried):
    step, seen = room_for(most)
    assert memory.rows_that_fit(step, 64) == tried[-1] and seen == tried


def test_odd_numbers_are_halved_upwards():
    step, seen = room_for(1)
    assert memory.rows_that_fit(step, 7) == 1 and seen == [7, 4, 2, 1]


def test_not_one_row_is_said_and_other_errors_stay():
    step, _ = room_for(0)
    with pytest.raises(UserError, match="not one image of this size fits"):
        memory.rows_that_fit(step, 4)
    with pytest.raises(ZeroDivisionError):
        memory.rows_that_fit(lambda rows: 1 // 0, 4)


GREEDY = {"model": {"name": "greedy"}}  # its module, imported above, has registered it


def test_auto_trains_as_micro_batches_of_what_fits(tmp_path, monkeypatch, capsys):
    """The same as if that number had been given: trying it out leaves no trace in weights, statistics or draws."""
    monkeypatch.setenv("CXR_RAY_TEST_ROWS", "5")
    store = fake_store(70, unknown=0.3)
    greedy_model.Greedy.seen.clear()
    made = {}
    for name, rows in (("auto", "auto"), ("given", 4)):
        hyperparameters = config(tmp_path, name=name, **GREEDY, train={"micro_batch": rows})
        made[name] = fit(hyperparameters, store, LocalContext())
        seen = greedy_model.Greedy.seen
        if rows == "auto":
            assert seen[:3] == [16, 8, 4]
        assert set(seen[3:]) <= {1, 2, 3, 4}
    a, b = final_weights(made["auto"]), final_weights(made["given"])
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert capsys.readouterr().out.count("micro-batches of 4 rows: a worker's share of 16 does not fit") == 1


def test_a_step_that_does_not_fit_says_the_mend(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_RAY_TEST_ROWS", "4")
    with pytest.raises(OutOfMemory, match=r"set train\.micro_batch to auto") as caught:
        fit(config(tmp_path, name="whole", **GREEDY), fake_store(50))
    assert "\n" not in str(caught.value)


def test_auto_where_all_fits_is_the_whole_share(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_RAY_TEST_ROWS", "100")
    store = fake_store(50)
    a, b = (
        final_weights(fit(config(tmp_path, name=str(rows), **GREEDY, train={"micro_batch": rows}), store))
        for rows in ("auto", None)
    )
    assert all(torch.equal(a[k], b[k]) for k in a)


def _two_ranks(folder):
    context = LocalContext(quiet=True)
    os.environ["CXR_RAY_TEST_ROWS"] = "5" if context.rank else "50"  # the second device is the smaller one
    greedy_model.Greedy.seen.clear()
    fit(config(folder, name="two", **GREEDY, train={"micro_batch": "auto"}), fake_store(50), context)
    assert max(greedy_model.Greedy.seen[2:]) == 4  # of a share of 8: both take what the smaller one can


def test_ranks_agree_on_what_fits_the_smallest(tmp_path):
    on_ranks(2, tmp_path, _two_ranks, tmp_path)


def _too_small_for_one(folder):
    context = LocalContext(quiet=True)
    os.environ["CXR_RAY_TEST_ROWS"] = "0" if context.rank else "50"
    with pytest.raises(UserError, match="not one image of this size fits"):
        fit(config(folder, name="none", **GREEDY, train={"micro_batch": "auto"}), fake_store(50), context)


def test_where_nothing_fits_on_one_rank_no_other_waits_for_it(tmp_path):
    on_ranks(2, tmp_path, _too_small_for_one, tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_pages_hold_the_same_values():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    held = memory.pinned(array)
    np.testing.assert_array_equal(held, array)
    assert torch.from_numpy(held).is_pinned()
