"""Before a training starts: open the store, build the plan, check every name of the config, create the run folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxr_ray import config as cfg
from cxr_ray import labels as label_space
from cxr_ray import runs
from cxr_ray.data import leakage
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.training import trackers


def open_run(config: cfg.Config, store: stores.Store, plan: plans.Plan, **entries: Any) -> runs.Run:
    """The run folder of a resolved config: a new one, or the unfinished one to resume. `entries` are added to run.json."""
    return runs.create(
        config,
        store=store_info(store),
        plan=plan.table(),
        about={
            "labels": list(plan.labels),
            "task": plan.task,
            "groups": plan.groups,
            "warnings": list(plan.warnings),
            "dropped": plan.dropped,
            "prevalence": runs.prevalence(store, plan),
            **entries,
        },
    )


def store_info(store: stores.Store) -> dict[str, Any]:
    """The `store` entry of run.json."""
    return {
        "path": store.origin,
        "fingerprint": store.fingerprint,
        "source": store.manifest.source,
        "rows": len(store),
        "notes": list(store.info.notes),
        "groups": {name: list(labels) for name, labels in store.info.groups.items()},
    }


def prepare(
    config: cfg.Config, *, log: Callable[[str], None] | None = None
) -> tuple[stores.Store, plans.Plan, cfg.Config]:
    """The store, the plan and the resolved config. Every name is checked here, so that no worker starts with a typo.

    Raises `UserError`."""
    trackers.check(config.report.trackers)
    if config.seeds > 1:
        raise UserError(
            "seeds is for `cxr-ray train`, which trains one run after the other: here set seed (in a sweep tune.space.seed: "
            "{choice: [0, 1, 2]}), and leave seeds at 1"
        )
    if config.data.shards is None:
        raise UserError(
            "no store is given: set data.shards to the folder that ingest wrote, with --store FOLDER or in the config"
        )
    split = config.data.split
    if split.fold and split.folds is None:
        raise UserError(
            f"data.split.fold is {split.fold}, but there are no folds; set data.split.folds to their number too"
        )
    store = stores.open(config.data.shards, verify=config.data.verify, cache=config.data.cache, log=log)
    plan = plans.build(store, config.data, seed=config.seed, pos_weight_power=config.loss.pos_weight_power)
    warnings = _near_duplicate_warnings(store, plan, config.data.split.near_duplicates)
    plan = replace(plan, warnings=(*plan.warnings, *warnings))
    config = _with_absolute_paths(config.for_task(plan.task), store)
    check(config, plan, store)
    return store, plan, config


def check(config: cfg.Config, plan: plans.Plan, store: stores.Store) -> None:
    """Check every name of a config, and build its model and loss once. Raises `UserError`."""
    if config.report.labels != "all":
        label_space.resolve(config.report.labels, plan.labels, plan.groups)

    from cxr_ray import losses, metrics, models
    from cxr_ray.metrics import operating_points

    metrics.parse(config.train.monitor, labels=plan.labels, task=plan.task)
    thresholds = operating_points.expand_groups(config.report.thresholds, plan.labels, plan.groups)
    operating_points.parse(thresholds, plan.labels, task=plan.task)
    losses.build(
        config.loss,
        task=plan.task,
        weight_L=plan.pos_weight,
        micro_batches=config.train.micro_batch is not None,
        mixed=config.augment.mixup > 0.0,
    )
    size = config.data.image_size or store.size
    models.check_size(size, store.size)  # before the model: the image size is what the user chose
    models.build(config.model, outputs=len(plan.labels), image_size=size, mean=0.0, deviation=1.0)


def _near_duplicate_warnings(store: stores.Store, plan: plans.Plan, distance: int | None) -> list[str]:
    """A warning about similar images in different parts. Not in the plan, which reads no images."""
    if distance is None:
        return []
    pairs = leakage.near_duplicates(store.index, plan.rows, distance=distance, images=store.pictures)
    if pairs.empty:
        return []
    subject = "pair of images is" if len(pairs) == 1 else "pairs of images are"
    return [
        f"{len(pairs):,} {subject} in two parts and look alike ({leakage.describe_pairs(pairs)}): a copy, or one person under "
        "two names; compare them with `cxr-ray describe SHARDS --row N`"
    ]


def _with_absolute_paths(config: cfg.Config, store: stores.Store) -> cfg.Config:
    """`config` with absolute paths: workers, and a repeat from the run's own config, may run in another folder."""
    weights = config.model.weights
    if weights not in ("none", "imagenet"):
        weights = str(Path(weights).absolute())
    cache = config.data.cache
    if cache not in ("auto", "none"):
        cache = str(Path(cache).absolute())
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"shards": store.origin, "cache": cache}),
            "model": config.model.model_copy(update={"weights": weights}),
        }
    )
