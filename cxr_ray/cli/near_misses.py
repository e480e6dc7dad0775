"""Suggestions for names that people of PyTorch, timm, Lightning and ultralytics type: flags, metrics and rules for thresholds."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

from cxr_ray import config as configs
from cxr_ray.config import synonyms
from cxr_ray.errors import UserError, unknown

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
    setting = synonyms.meant_setting(name)
    if setting is None:
        return ""
    meant = f"--{setting}" if "." in name else short_flags.get(setting, f"--{setting}")
    return f"; did you mean '{meant}'?{synonyms.NOTES.get(name.rpartition('.')[2], '')}"


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
        _check_metric(re.split(r"\s*[<>]", name)[0], setting, plugins=bool(config.plugins))


def _check_metric(name: str, setting: str, *, plugins: bool) -> None:
    """With `plugins`, which are imported when the training starts, an unknown metric may be one of theirs."""
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
    if metric in known or plugins:
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
