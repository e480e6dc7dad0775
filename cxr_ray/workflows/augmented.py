"""What training sees: train images of a config as the store has them and as the first epochs augment them."""
# N images, H x W pixels

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray import config as cfg
from cxr_ray.data import loader, mixup, summary
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.plotting import store_plots
from cxr_ray.plotting.plots import Figure, png
from cxr_ray.storage.atomic import make_folder, write_atomic
from cxr_ray.training.augment import augment

IMAGES, EPOCHS = 5, 5


def write(config: cfg.Config, path: Path) -> Path:
    """Write `figure` as PNG to `path`, whose folder is made; returns the complete path."""
    out = path.resolve()
    body = png(figure(config))
    make_folder(out.parent)
    write_atomic(out, body)
    return out


def figure(config: cfg.Config) -> Figure:
    """A line per train image: as stored, then as each of the first epochs gives it to the model, which resizes and normalises it.

    Exactly the pixels of the training that `config` describes: its sample of rows, order, seed, augmentation and mixup. Raises
    `UserError` if there is no store, or it cannot be planned."""
    if not config.data.shards:
        raise UserError("the config has no store; add --store, or data.shards to the file")
    store = stores.open(config.data.shards, cache=config.data.cache)
    plan = plans.build(store, config.data, seed=config.seed)
    train = store.index[store.index["row"].isin(plan.rows["train"])]
    rows = np.array(summary.sample(train, IMAGES), dtype=np.int64)
    columns = [store.pictures(rows), *(_epoch(config, store, plan, rows, epoch) for epoch in range(1, EPOCHS + 1))]
    pictures = np.stack(columns, axis=1).reshape(-1, *store.size)
    names = [[f"row {row}", *(f"epoch {epoch}" for epoch in range(1, EPOCHS + 1))] for row in rows]
    height, width = config.data.image_size or store.size
    resized = "" if (height, width) == store.size else f", before it is resized to {height} × {width} px"
    title = f"What training sees of {store.name}: train images as stored, and in each epoch"
    about = f"augmented with probability {config.augment.probability:g}{resized}"
    return store_plots.grid(
        pictures, [name for line in names for name in line], columns=1 + EPOCHS, title=title, about=about
    )


def _epoch(
    config: cfg.Config, store: stores.Store, plan: plans.Plan, rows: npt.NDArray[np.int64], epoch: int
) -> npt.NDArray[np.uint8]:
    """The images [N, H, W] of `rows` [N] at their first place in the order of `epoch`."""
    order = loader.epoch_order(plan.repeats, seed=config.seed, epoch=epoch)
    row_in_order = plan.rows["train"][order]
    place_N = np.array([np.flatnonzero(row_in_order == row)[0] for row in rows], dtype=np.int64)
    augment_at = partial(augment, config=config.augment, seed=config.seed, epoch=epoch)
    pixels = augment_at(torch.from_numpy(store.images(rows)), positions=place_N)
    if config.augment.mixup:
        start_N = place_N // config.train.batch_size * config.train.batch_size
        others, share_N = place_N.copy(), np.ones(len(rows), np.float32)
        for n, start in enumerate(start_N):
            positions = np.arange(start, min(start + config.train.batch_size, len(order)))
            found = mixup.pairs(config.augment.mixup, seed=config.seed, epoch=epoch, positions=positions)
            others[n] = positions[found.other[place_N[n] - start]]
            share_N[n] = found.share[place_N[n] - start]
        partners = augment_at(torch.from_numpy(store.images(row_in_order[others])), positions=others)
        pixels = mixup.blend(pixels, partners, share_N)
    return np.asarray(pixels.round().clamp(0, 255).to(torch.uint8))
