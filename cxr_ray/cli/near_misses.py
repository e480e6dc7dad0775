"""Suggestions for names that people of PyTorch, timm, Lightning and ultralytics type: settings, metrics and rules for thresholds."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

from cxr_ray import config as configs
from cxr_ray.errors import UserError, unknown

SETTINGS = {
    "data.shards": "data data_dir data_path data_root dataset dataset_path root shard store shards",
    "data.image_size": "imgsz img_size img size input_size resolution crop_size train_crop_size image",
    "data.limit": "fraction subset max_samples limit_train_batches",
    "data.labels": "classes label targets",
    "data.split.folds": "fold k_folds kfold kfolds n_folds num_folds n_splits",
    "data.split.val": "val val_split val_size val_fraction valid_size validation_split",
    "data.split.test": "test test_split test_size test_fraction",
    "model.name": "arch architecture backbone model_name net network encoder",
    "model.weights": "pretrained checkpoint initial_checkpoint init_weights weight pretrain",
    "model.dropout": "drop drop_rate dropout_rate",
    "model.freeze_epochs": "freeze freeze_backbone frozen_epochs",
    "loss.name": "loss criterion loss_fn objective",
    "loss.pos_weight_power": "pos_weight class_weight class_weights",
    "loss.label_smoothing": "smoothing",
    "optim.name": "opt optim optimizer optimiser",
    "optim.lr": "learning_rate lr0 base_lr max_lr learningrate",
    "optim.weight_decay": "wd l2 weightdecay decay",
    "optim.schedule": "sched scheduler lr_scheduler lr_scheduler_type cos_lr lr_schedule",
    "optim.warmup_epochs": "warmup warmup_steps warmup_ratio lr_warmup_epochs",
    "optim.clip_norm": "clip clip_grad clip_grad_norm gradient_clip_val max_grad_norm grad_clip",
    "optim.ema": "model_ema model_ema_decay ema_decay",
    "train.epochs": "epoch num_epochs n_epochs max_epochs num_train_epochs",
    "train.batch_size": "batch bs batchsize train_batch_size per_device_train_batch_size",
    "train.micro_batch": "accumulate accum_iter grad_accum_steps gradient_accumulation_steps accumulate_grad_batches",
    "train.gpu": "device cuda accelerator use_gpu no_cuda",
    "train.workers": "num_workers n_workers j nproc_per_node world_size devices num_gpus gpus nprocs",
    "train.precision": "amp fp16 bf16 half mixed_precision amp_dtype dtype use_amp",
    "train.patience": "early_stopping early_stopping_patience early_stop",
    "train.compile": "torchcompile torch_compile",
    "train.sync_batch_norm": "sync_bn sync_batchnorm",
    "train.monitor": "metric eval_metric metric_for_best_model",
    "augment.mixup": "mixup_alpha",
    "augment.erase": "reprob random_erase erasing",
    "augment.flip": "hflip fliplr horizontal_flip",
    "report.thresholds": "threshold conf",
    "report.trackers": "logger loggers report_to tracker",
    "output": "out output_dir out_dir save_dir project log_dir logdir default_root_dir",
    "name": "experiment exp_name run_name experiment_name",
    "seed": "random_state manual_seed random_seed",
    "tune.trials": "n_trials num_trials num_samples",
}
"""Setting -> other names of it."""
BY_NAME = {name: setting for setting, names in SETTINGS.items() for name in names.split()}
NOTES = {
    "num_workers": " It is the number of processes that train; images need no loader processes",
    "j": " It is the number of processes that train; images need no loader processes",
}
"""Names that mean something else in a DataLoader."""

METRICS = {
    "sensitivity": "recall",
    "tpr": "recall",
    "tnr": "specificity",
    "ppv": "precision",
    "auc": "auroc",
    "roc_auc": "auroc",
    "rocauc": "auroc",
    "auprc": "ap",
    "pr_auc": "ap",
    "map": "ap",
    "average_precision": "ap",
    "acc": "accuracy",
    "top1": "accuracy",
    "f1_score": "f1",
    "fscore": "f1",
    "hamming_loss": "hamming",
    "subset_accuracy": "exact_match",
    "brier_score": "brier",
}
"""Other names of metrics."""
RULES = ("recall", "specificity")
"""Rates that a rule for thresholds takes a minimum of (`metrics.operating_points.MINIMUM_OF`; a test compares)."""
NAMED_RULES = ("youden", "f1")


def suggest_flag(flag: str, short_flags: Mapping[str, str]) -> str:
    """`"; did you mean '--lr'?"` for a flag of another framework, or an empty string. A dotted flag gets the dotted one.

    `short_flags`: setting -> its short flag."""
    name = flag.lstrip("-").replace("-", "_").lower()
    last = name.rpartition(".")[2]
    setting = BY_NAME.get(last)
    if setting is None:
        return ""
    meant = f"--{setting}" if "." in name else short_flags.get(setting, f"--{setting}")
    return f"; did you mean '{meant}'?{NOTES.get(last, '')}"


def check_metrics(config: configs.Config) -> None:
    """Check parts and metrics of the names in `train.monitor` and in the objectives of `tune`. Labels are known only with a store.

    Raises `UserError` with the closest known name."""
    default = configs.Config()
    bounds = config.tune.constraint or []
    names = [
        *([("train.monitor", config.train.monitor)] if config.train.monitor != default.train.monitor else []),
        *(("tune.metric", name) for name in config.tune.metrics if name not in default.tune.metrics),
        *(("tune.constraint", bound) for bound in ([bounds] if isinstance(bounds, str) else bounds)),
    ]
    for setting, name in names:
        _check_metric(re.split(r"\s*[<>]", name)[0], setting)


def _check_metric(name: str, setting: str) -> None:
    from cxr_ray.labels import PARTS
    from cxr_ray.metrics.names import LABEL_METRICS, OVERALL_METRICS

    overall = {metric for metrics in OVERALL_METRICS.values() for metric in metrics}
    known = ["loss", *LABEL_METRICS, *sorted(overall)]
    part, metric, label = configs.split_name(name)
    where = f" in {name!r}"
    if part not in PARTS:
        found = METRICS.get(part.lower(), part)
        if found in known:  # only the part is missing
            label = label or metric or ("" if found in overall else configs.MEAN)
            raise UserError(
                f"{setting}: {name!r} names no part; did you mean {configs.join_name('val', found, label)!r}?"
            )
        raise UserError(f"{setting}: {unknown('part', part, PARTS, where=where)}")
    if metric in known:
        return
    if metric.lower() in METRICS:
        meant = configs.join_name(part, METRICS[metric.lower()], label)
        raise UserError(f"{setting}: unknown metric {metric!r}{where}; did you mean {meant!r}?")
    raise UserError(f"{setting}: {unknown('metric', metric, known, where=where)}")


def check_rule(rule: float | str | Mapping[str, float] | None, names: Collection[str] = ()) -> None:
    """Check that `{name: minimum}` is not a misspelt rule, such as recal=0.9. `names`: labels and groups, which are no rules.

    Raises `UserError`; other unknown labels are found where the labels are known."""
    if not isinstance(rule, Mapping) or len(rule) != 1:
        return
    name, value = next(iter(rule.items()))
    if name in RULES or name in names:
        return
    if (meant := closest_rule(name)) in RULES:
        raise UserError(f"thresholds: unknown rule or label {name!r}; did you mean '{meant}={value:g}'?")


def closest_rule(name: str) -> str | None:
    """The rule that `name` probably means, or None."""
    other = METRICS.get(name.lower(), "")
    if other in RULES:
        return other
    return next(iter(get_close_matches(name.lower(), [*RULES, *NAMED_RULES], n=1, cutoff=0.75)), None)
