"""Before a training starts: open the store, build the plan, check every name of the config, create the run folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_ray import config as cfg
from cxr_ray import labels as label_space
from cxr_ray import runs
from cxr_ray.data import leakage
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.data.features import read_manifest, training_source
from cxr_ray.errors import Interrupted, Stopped, UserError
from cxr_ray.storage.remote import to_local_path
from cxr_ray.training import on_features, trackers


def open_run(config: cfg.Config, store: stores.Store, plan: plans.Plan, **entries: Any) -> runs.Run:
    """The run folder of a resolved config: a new one, or the unfinished one to resume. `entries` are added to run.json."""
    if config.data.features is not None:
        manifest = read_manifest(Path(config.data.features))
        entries["features"] = manifest.digest
        entries["embedder"] = {"model": manifest.model, "weights": manifest.weights}
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


def end_of(error: BaseException) -> tuple[str, str]:
    """The status of a training or a sweep that ended by `error`, and why."""
    if isinstance(error, Stopped | Interrupted):
        return "stopped", str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "by the user"
    return "failed", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".split("\n")[0]


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
    near_duplicates = _near_duplicate_warnings(store, plan, config.data.split.near_duplicates)
    config = _with_absolute_paths(on_features.resolve(config.for_task(plan.task)), store)
    check(config, plan, store)
    plan = replace(plan, warnings=(*plan.warnings, *monitor_warnings(config, plan), *near_duplicates))
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
    on_features.check(config)
    stored = training_source(store, config.data).size
    size = config.data.image_size or stored
    models.check_size(size, stored)  # before the model: the image size is what the user chose
    models.build(config.model, outputs=len(plan.labels), image_size=size, mean=0.0, deviation=1.0)


def monitor_warnings(config: cfg.Config, plan: plans.Plan) -> list[str]:
    """A warning if `train.monitor` is undefined whatever the model predicts, and something depends on it."""
    train = config.train
    depends = [
        *(["the last epoch is kept"] if train.select == "best" else []),
        *(["train.patience cannot end the training"] if train.patience is not None else []),
        *(["optim.schedule: plateau never lowers the learning rate"] if config.optim.schedule == "plateau" else []),
    ]
    part, metric, label = cfg.split_name(train.monitor)
    if not depends or _is_ever_defined(metric, label, plan.truth[part], plan):
        return []
    why = "lacks positives, negatives or both" if len(plan.rows[part]) else "has no rows"
    return [
        f"train.monitor: {train.monitor} is undefined in every epoch, because {part} {why}: {', and '.join(depends)}"
    ]


def _is_ever_defined(metric: str, label: str, truth_NL: plans.Targets, plan: plans.Plan) -> bool:
    """Whether a metric is defined for some predictions: those that call every cell positive, or none; for classes, every row one of
    them."""
    from cxr_ray import metrics

    one_of_each = np.unique(plans.label_vectors(truth_NL), return_index=True)[1]
    truth_VL = label_space.hard_targets(truth_NL[one_of_each])
    if metric == "loss":
        column = [plan.labels.index(label)] if label else slice(None)
        return not np.isnan(truth_VL[:, column]).all()
    width = len(plan.labels)
    extremes = np.eye(width) if plan.task == "multiclass" else np.outer([0.0, 1.0], np.ones(width))
    threshold_L = metrics.thresholds(0.5, plan.labels)
    return any(
        (value.metric, value.label) == (metric, label)
        for prob_L in extremes
        for value in metrics.compute_metrics(
            truth_VL, np.tile(prob_L, (len(truth_VL), 1)), labels=plan.labels, task=plan.task, thresholds_L=threshold_L
        )
    )


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
    features = config.data.features
    if features is not None:
        features = str(to_local_path(features, "folder of features").absolute())
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"shards": store.origin, "cache": cache, "features": features}),
            "model": config.model.model_copy(update={"weights": weights}),
        }
    )
