"""What training sees: the grid has the pixels of the training's own batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ray import config as cfg
from cxr_ray.data import loader, mixup
from cxr_ray.data import plan as plans
from cxr_ray.errors import UserError
from cxr_ray.training.augment import augment
from cxr_ray.workflows import augmented
from tests.fakes.study_store import write_store


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_the_pictures_are_those_of_the_batches(tmp_path: Path, alpha: float) -> None:
    store = write_store(tmp_path / "s", seed=0)
    settings = {"data": {"shards": str(store.path), "oversample_min_count": 40}, "train": {"batch_size": 16}, "seed": 3}
    config = cfg.validate({**settings, "augment": {"probability": 0.7, "mixup": alpha}})
    figure = augmented.figure(config)
    shown = {}
    axes = iter(figure.axes)
    for _ in range(augmented.IMAGES):
        row = int(next(stored := axes).get_title().removeprefix("row "))
        for epoch in range(1, augmented.EPOCHS + 1):
            one = next(stored)
            assert one.get_title() == f"epoch {epoch}"
            shown[row, epoch] = np.asarray(one.images[0].get_array())
    plan = plans.build(store, config.data, seed=config.seed)
    found = set()
    for epoch in range(1, augmented.EPOCHS + 1):
        pair = (lambda at, epoch=epoch: mixup.pairs(alpha, seed=3, epoch=epoch, positions=at)) if alpha else None
        order = loader.epoch_order(plan.repeats, seed=3, epoch=epoch)
        samples = loader.EpochSamples(plan.rows["train"], plan.truth["train"], order, pair)
        for batch in loader.train_batches(store, samples, batch_size=16, rank=0, world=1):
            pixels = augment(
                torch.from_numpy(batch.images), config.augment, seed=3, epoch=epoch, positions=batch.positions
            )
            if batch.mixed is not None:
                positions = batch.mixed.positions
                others = augment(
                    torch.from_numpy(batch.mixed.images), config.augment, seed=3, epoch=epoch, positions=positions
                )
                pixels = mixup.blend(pixels, others, batch.mixed.share)
            for row, picture in zip(batch.rows.tolist(), pixels, strict=True):
                key = (row, epoch)
                if key in shown and key not in found:  # an oversampled row: its first place
                    np.testing.assert_allclose(shown[key], picture.numpy(), atol=0.51)
                    found.add(key)
    assert found == set(shown) and len(found) == augmented.IMAGES * augmented.EPOCHS


def test_a_config_without_a_store_is_one_line() -> None:
    with pytest.raises(UserError, match="no store; add --store"):
        augmented.figure(cfg.Config())
