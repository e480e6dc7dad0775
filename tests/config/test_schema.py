"""The settings: defaults, resolution by task, digests, and combinations that are refused."""

import pytest

from cxr_ray import config as cfg
from cxr_ray.errors import UserError


def test_every_setting_has_a_default_and_the_store_has_none() -> None:
    config = cfg.load()
    assert config == cfg.Config()
    assert config.data.shards is None


def test_the_digest_ignores_the_name_and_the_output_folder() -> None:
    default = cfg.Config()
    assert cfg.load(None, {"name": "x", "output": "elsewhere"}).digest() == default.digest()
    assert cfg.load(None, {"seed": 1}).digest() != default.digest()


def test_the_digest_of_a_config_without_derived_labels_is_that_of_earlier_versions() -> None:
    assert cfg.Config().digest() == "fa5a5f1e70"
    assert cfg.load(None, {"data": {"derive": {"X": {"any": ["A"]}}}}).digest() != cfg.Config().digest()


@pytest.mark.parametrize("rule", [{}, {"any": []}, {"any": ["A"], "all": ["B"]}])
def test_a_derived_label_has_one_rule(rule: dict[str, list[str]]) -> None:
    with pytest.raises(UserError, match=r"data\.derive: X: give any or all with at least one label"):
        cfg.validate({"data": {"derive": {"X": rule}}})


def test_multiclass_tasks_monitor_accuracy_unless_a_metric_is_set() -> None:
    assert cfg.Config().for_task("multiclass").train.monitor == "val/accuracy"
    assert cfg.Config().for_task("multilabel").train.monitor == "val/auroc/mean"
    explicit = cfg.load(None, {"train": {"monitor": "val/auroc/mean"}})
    assert explicit.for_task("multiclass").train.monitor == "val/auroc/mean"


@pytest.mark.parametrize(
    ("metric", "mode"), [("val/loss", "min"), ("val/brier/macro", "min"), ("val/auroc/mean", "max")]
)
def test_the_mode_follows_from_the_metric_unless_it_is_set(metric: str, mode: str) -> None:
    assert cfg.Train(monitor=metric).mode == mode
    assert cfg.Tune(metric=metric).modes == [mode]
    assert cfg.Train(monitor=metric, monitor_mode="max").mode == "max"
    assert cfg.Tune(metric=[metric, "val/ap/mean"], mode=["min", "auto"]).modes == ["min", "max"]


@pytest.mark.parametrize("metric", ["val/f1/macro", "val/f1/macro >= 0.5"])
def test_macro_is_stored_as_mean(metric: str) -> None:
    assert cfg.Tune(constraint=metric).constraint == metric.replace("macro", "mean")


@pytest.mark.parametrize("micro_batch", [4, "auto"])
def test_synchronised_batch_norm_excludes_micro_batches(micro_batch: int | str) -> None:
    with pytest.raises(UserError, match=r"sync_batch_norm and micro_batch: .* remove one of them"):
        cfg.load(None, {"train": {"sync_batch_norm": True, "micro_batch": micro_batch}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"split": {"folds": 5, "fold": 5}}}, "fold: 5 is not one of the 5 folds, which are numbered from 0"),
        ({"data": {"split": {"folds": 5, "val": "official"}}}, "val: official and folds both define val"),
        ({"optim": {"schedule": "onecycle", "warmup_epochs": 1}}, "leave warmup_epochs at 0"),
        ({"train": {"workers": 2, "min_workers": 3}}, "min_workers: 3 is more than workers: 2"),
        ({"tune": {"max_concurrent": 0}}, "must be auto, or at least 1"),
        ({"tune": {"metric": []}}, "metric: an empty list"),
        ({"tune": {"mode": ["max", "min"]}}, "mode: 2 modes for 1 metrics; give one for all, or one per metric"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        cfg.validate(values)
    assert message in str(caught.value)
