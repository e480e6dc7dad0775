"""Which trial comes next: by number, or in an order that a seed has drawn. Optuna's are tested with the sweeps on Ray."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.tuning.search import Proposals
from cxr_ray.tuning.trial import FAILED, FINISHED, RUNNING, STOPPED, Trial


def trials(count: int) -> list[Trial]:
    return [Trial(f"{n:04d}", n, {"optim.lr": n} if n else {}, base=not n) for n in range(count)]


def names(proposals: Proposals) -> list[str]:
    found = []
    while (trial := proposals.next()) is not None:
        found.append(trial.name)
    return found


def test_they_come_by_number() -> None:
    assert names(Proposals(trials(4))) == ["0000", "0001", "0002", "0003"]


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.data())
def test_shuffled_they_keep_their_order_when_a_sweep_goes_on(count: int, seed: int, data: st.DataObject) -> None:
    held = trials(count)
    order = names(Proposals(held, shuffled=seed))
    assert order[0] == "0000" and sorted(order) == [t.name for t in held]
    states = data.draw(st.lists(st.sampled_from([FINISHED, STOPPED, FAILED, RUNNING]), min_size=count, max_size=count))
    later = [replace(t, status=s) for t, s in zip(held, states, strict=True)]
    left = {t.name for t in later if t.status == RUNNING}
    proposals = Proposals(later, shuffled=seed)
    assert proposals.left == len(left)
    assert names(proposals) == [name for name in order if name in left]


def test_a_grid_that_rises_from_bad_to_good_is_not_tried_in_that_order() -> None:
    orders = [names(Proposals(trials(17), shuffled=seed))[1:] for seed in range(20)]
    assert all(order != sorted(order) for order in orders)
    assert len({order[-1] for order in orders}) > 5
