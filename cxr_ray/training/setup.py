"""Before a training starts: the store, the plan, the settled config and the run folder; every name checked."""

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


def open_run(config: cfg.Config, store: stores.Store, plan: plans.Plan, **about: Any) -> runs.Run:
    """The run folder of a settled config: new, or the unfinished one to go on with; `about` are further entries of run.json."""
    return runs.create(
        config,
        store=identity(store),
        plan=plan.table(),
        about={
            "labels": list(plan.labels),
            "task": plan.task,
            "groups": plan.groups,
            "warnings": list(plan.warnings),
            "dropped": plan.dropped,
            "prevalence": runs.prevalence(store, plan),
            **about,
        },
    )


def identity(store: stores.Store) -> dict[str, Any]:
    """What a run keeps of its store."""
    return {
        "path": store.origin,
        "fingerprint": store.fingerprint,
        "source": store.manifest.source,
        "rows": len(store),
        "notes": list(store.manifest.notes),
        "groups": {name: list(labels) for name, labels in store.groups.items()},
    }


def prepare(
    config: cfg.Config, *, log: Callable[[str], None] | None = None
) -> tuple[stores.Store, plans.Plan, cfg.Config]:
    """The store, the plan and the settled config; every name is resolved here, so that no worker starts on a typo."""
    trackers.check(config.report.trackers)
    if config.seeds > 1:
        raise UserError(
            "seeds is for `cxr-ray train`, which trains one after the other: here set seed (in a sweep tune.space.seed: "
            "{choice: [0, 1, 2]}), and leave seeds at 1"
        )
    if config.data.shards is None:
        raise UserError("data.shards is not set: give the folder that `cxr-ray ingest` wrote, as --data.shards FOLDER")
    store = stores.open(config.data.shards, verify=config.data.verify, cache=config.data.cache, log=log)
    plan = plans.build(store, config.data, seed=config.seed, pos_weight_power=config.loss.pos_weight_power)
    plan = replace(plan, warnings=(*plan.warnings, *_near_duplicates(store, plan, config.data.split.near_duplicates)))
    config = _settle_paths(config.for_task(plan.task), store)
    check(config, plan, store)
    return store, plan, config


def check(config: cfg.Config, plan: plans.Plan, store: stores.Store) -> None:
    """Resolve every name of a config and build its model and loss once. Raises `UserError`."""
    if config.report.labels != "all":
        label_space.resolve(config.report.labels, plan.labels, plan.groups)

    from cxr_ray import losses, metrics, models
    from cxr_ray.metrics import operating_points

    metrics.parse(config.train.monitor, labels=plan.labels, task=plan.task)
    limits = operating_points.spread(config.report.thresholds, plan.labels, plan.groups)
    operating_points.parse(limits, plan.labels, task=plan.task)
    whole, mixed = config.train.micro_batch is None, config.augment.mixup > 0.0
    losses.build(config.loss, task=plan.task, weight_L=plan.pos_weight, whole=whole, mixed=mixed)
    size = config.data.image_size or store.size
    models.check_size(size, store.size)  # before the model is built: the image's size is what the user chose
    models.build(config.model, outputs=len(plan.labels), image_size=size, mean=0.0, deviation=1.0)


def _near_duplicates(store: stores.Store, plan: plans.Plan, distance: int | None) -> list[str]:
    """A warning of pictures in two parts that look like one; here and not in the plan, which touches no image."""
    if distance is None:
        return []
    found = leakage.near(store.index, plan.rows, distance=distance, images=store.pictures)
    if found.empty:
        return []
    pairs = "pair of pictures stands" if len(found) == 1 else "pairs of pictures stand"
    return [
        f"{len(found):,} {pairs} in two parts and look like one picture ({leakage.told(found)}): a copy, or one person under "
        "two names; look at them with `cxr-ray describe SHARDS --row N`"
    ]


def _settle_paths(config: cfg.Config, store: stores.Store) -> cfg.Config:
    """Paths made absolute: workers, and a repeat from the run's own config, may stand in another folder."""
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
