"""One and two ranks: the same rows in the same order, the same losses and gradients, val covered exactly once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from cxr_ray import runs
from cxr_ray.data import plan as plans
from cxr_ray.runtime.context import LocalContext
from tests.fakes.ranks import on_ranks
from tests.fakes.store import fake_store
from tests.fakes.trainings import config, final_weights, fit, rows_in_order

# The last batch is short; for "sum" it has a single row, so that one rank has none. Masks differ between the ranks' halves.
EXACT: dict[str, Any] = {
    "data": {"blank": "ignore", "split": {"by": "image", "val": 0.25, "test": 0}, "oversample_min_count": 3},
    # Not Adam: it divides by the gradient's magnitude, so that rounding in a tiny gradient changes a weight as much as a large
    # gradient does, and the two trainings diverge.
    "optim": {"name": "sgd", "lr": 1e-3},
    "augment": {"probability": 0.7, "scale": 0.1, "flip": 0.3},
    "train": {"epochs": 2, "log_rows": True},
    "report": {"keep_predictions": True},
}


def _fit_and_record_gradients(output: str, sections: dict[str, Any], folder: str) -> None:
    """Fit, and save the gradients of every step (as each rank has them after the all-reduce)."""
    gradients = []
    step = torch.optim.SGD.step

    def recorded(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        gradients.append(torch.cat([p.grad.flatten().clone() for g in self.param_groups for p in g["params"]]))
        return step(self, *args, **kwargs)

    torch.optim.SGD.step = recorded
    try:
        context = LocalContext(quiet=True)
        fit(config(Path(output), **sections), fake_store(101, unknown=0.3), context)
    finally:
        torch.optim.SGD.step = step
    torch.save(torch.stack(gradients), Path(folder) / f"{sections['name']}-gradients-{context.rank}.pt")


@pytest.fixture(scope="module", params=["mean", "sum"])
def both_worlds(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, runs.Run]]:
    """The folder of gradients, and the run of each world size."""
    folder = tmp_path_factory.mktemp(request.param)
    by_world = {}
    for world in (1, 2):
        sections = {**EXACT, "name": f"world{world}", "loss": {"reduction": request.param, "pos_weight_power": 0.5}}
        samples = int(plans.build(fake_store(101, unknown=0.3), config(folder, **sections).data, seed=0).repeats.sum())
        fits = (lambda rest: rest > 1 and rest % 2) if request.param == "mean" else (lambda rest: rest == 1)
        batch_size = next(size for size in range(12, samples) if fits(samples % size))
        sections["train"] = {**EXACT["train"], "batch_size": batch_size}
        on_ranks(world, folder, _fit_and_record_gradients, str(folder), sections, str(folder))
        by_world[world] = runs.load(folder / f"world{world}")
    return folder, by_world


def test_the_same_rows_in_the_same_order(both_worlds: tuple[Path, dict[int, runs.Run]]) -> None:
    _, by_world = both_worlds
    one, two = rows_in_order(by_world[1]), rows_in_order(by_world[2])
    assert one == two
    train = by_world[1].plan.query("part == 'train'")
    for epoch in (1, 2):
        counts = pd.Series([r for e, _, rows in one if e == epoch for r in rows]).value_counts()
        assert counts.to_dict() == dict(zip(train["row"], train["drawn"], strict=True))
    assert [r for e, _, rows in one if e == 1 for r in rows] != [r for e, _, rows in one if e == 2 for r in rows]


def test_the_same_losses_and_gradients(both_worlds: tuple[Path, dict[int, runs.Run]]) -> None:
    folder, by_world = both_worlds
    one = torch.load(folder / "world1-gradients-0.pt", weights_only=True)
    for rank in (0, 1):
        two = torch.load(folder / f"world2-gradients-{rank}.pt", weights_only=True)
        scale = one.abs().amax(dim=1, keepdim=True)
        assert ((one - two).abs() / scale).max() < 1e-5, "gradients differ between world sizes 1 and 2"
    a, b = (
        by_world[w].metrics.query("metric == 'loss'").set_index(["epoch", "part", "label"])["value"] for w in (1, 2)
    )
    assert len(a) == 2 * 4 + 3 * 4 and ((a - b).abs() < 1e-5).all()
    wa, wb = final_weights(by_world[1]), final_weights(by_world[2])
    assert max(float((wa[k] - wb[k]).abs().max()) for k in wa) < 1e-4


def test_val_is_covered_exactly_and_its_metrics_equal_their_definitions(
    both_worlds: tuple[Path, dict[int, runs.Run]],
) -> None:
    _, by_world = both_worlds
    for world in (1, 2):
        run = by_world[world]
        val = run.plan.query("part == 'val'")["row"].tolist()
        assert len(val) % 2 == 1, "the row count must not divide evenly between the ranks"
        for epoch in (0, 1, 2):
            table = run.predictions(f"epochs/{epoch:04d}-val")
            assert table["row"].tolist() == val
            logged = run.metrics.query("epoch == @epoch and part == 'val'").set_index(["metric", "label"])["value"]
            for label in ("Edema", "Mass", "Effusion"):
                pairs = table[[f"true/{label}", f"prob/{label}"]].dropna().to_numpy(float)
                for metric, value in _slow_metrics(pairs[:, 0].tolist(), pairs[:, 1].tolist()).items():
                    if value is None:
                        assert (metric, label) not in logged.index
                    else:
                        assert logged[(metric, label)] == pytest.approx(value, abs=1e-9), (world, epoch, metric, label)


def _slow_metrics(truth: Sequence[float], prob: Sequence[float]) -> dict[str, float | None]:
    """Recall, precision, F1, AUROC and AP by their definitions, row by row."""
    tp = sum(1 for y, p in zip(truth, prob, strict=True) if y == 1 and p >= 0.5)
    fp = sum(1 for y, p in zip(truth, prob, strict=True) if y == 0 and p >= 0.5)
    fn = sum(1 for y, p in zip(truth, prob, strict=True) if y == 1 and p < 0.5)
    positive = [p for y, p in zip(truth, prob, strict=True) if y == 1]
    negative = [p for y, p in zip(truth, prob, strict=True) if y == 0]
    wins = sum((a > b) + 0.5 * (a == b) for a in positive for b in negative)
    ap, before = 0.0, 0.0
    for threshold in sorted(set(prob), reverse=True):
        recall = sum(p >= threshold for p in positive) / len(positive) if positive else 0.0
        predicted = sum(p >= threshold for p in prob)
        ap += (recall - before) * sum(p >= threshold for p in positive) / predicted
        before = recall
    return {
        "recall": tp / (tp + fn) if positive else None,
        "precision": tp / (tp + fp) if tp + fp else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if 2 * tp + fp + fn else None,
        "auroc": wins / (len(positive) * len(negative)) if positive and negative else None,
        "ap": ap if positive else None,
    }


def test_micro_batches_give_the_gradients_of_the_whole_batch(tmp_path: Path) -> None:
    store = fake_store(70, unknown=0.3)
    a, b = (
        final_weights(fit(config(tmp_path, name=n, data={"blank": "ignore"}, train={"micro_batch": m}), store))
        for n, m in (("whole", None), ("pieces", 5))
    )
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-5
