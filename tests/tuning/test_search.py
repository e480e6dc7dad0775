"""Which trial comes next: by number, or in an order that depends on a seed. Optuna is tested with the sweeps on Ray."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.tuning.search import Proposals
from cxr_ray.tuning.trial import FAILED, FINISHED, RUNNING, STOPPED, Trial


def make_trials(count: int) -> list[Trial]:
    return [Trial(f"{n:04d}", n, {"optim.lr": n} if n else {}, base=not n) for n in range(count)]


def names(proposals: Proposals) -> list[str]:
    found = []
    while (trial := proposals.next()) is not None:
        found.append(trial.name)
    return found


def test_trials_come_by_number() -> None:
    assert names(Proposals(make_trials(4))) == ["0000", "0001", "0002", "0003"]


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.data())
def test_shuffled_trials_keep_their_order_in_a_resumed_sweep(count: int, seed: int, data: st.DataObject) -> None:
    trials = make_trials(count)
    order = names(Proposals(trials, shuffled=seed))
    assert order[0] == "0000" and sorted(order) == [t.name for t in trials]
    states = data.draw(st.lists(st.sampled_from([FINISHED, STOPPED, FAILED, RUNNING]), min_size=count, max_size=count))
    later = [replace(t, status=s) for t, s in zip(trials, states, strict=True)]
    remaining = {t.name for t in later if t.status == RUNNING}
    proposals = Proposals(later, shuffled=seed)
    assert proposals.remaining == len(remaining)
    assert names(proposals) == [name for name in order if name in remaining]


def test_a_grid_ordered_from_bad_to_good_is_not_trained_in_that_order() -> None:
    orders = [names(Proposals(make_trials(17), shuffled=seed))[1:] for seed in range(20)]
    assert all(order != sorted(order) for order in orders)
    assert len({order[-1] for order in orders}) > 5
