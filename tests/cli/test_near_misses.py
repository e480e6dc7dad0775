"""Suggestions for names that other frameworks use, and for misspelt flags, labels, metrics and rules."""

from pathlib import Path
from typing import Any

import pytest

from cxr_ray import cli
from cxr_ray import config as configs
from cxr_ray.cli import config_flags, flags, near_misses
from cxr_ray.config import synonyms
from cxr_ray.errors import UserError
from cxr_ray.metrics import operating_points
from cxr_ray.metrics.names import LABEL_METRICS, OVERALL_METRICS


def test_the_tables_name_existing_settings_metrics_and_rules() -> None:
    known = [name for name, _ in flags.settings(configs.Config)]
    assert set(synonyms.SETTINGS) <= set(known)
    assert sum(len(names.split()) for names in synonyms.SETTINGS.values()) == len(synonyms.BY_NAME)  # no name twice
    metrics = {*LABEL_METRICS, *(name for names in OVERALL_METRICS.values() for name in names)}
    assert set(near_misses.METRICS.values()) <= metrics
    assert not set(near_misses.METRICS) & metrics
    assert near_misses.RULES == operating_points.MINIMUM_OF
    assert near_misses.NAMED_RULES == operating_points.NAMED_RULES
    assert not {f"--{name.replace('_', '-')}" for name in synonyms.BY_NAME} & set(config_flags.SHORT) - {"--store"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1}, "learning_rate is not a setting; did you mean optim.lr?"),
        ({"train": {"num_epochs": 3}}, "train.num_epochs is not a setting; did you mean train.epochs?"),
        ({"data": {"store": "x"}}, "did you mean data.shards?"),
        ({"train": {"epoch": 3}}, "did you mean train.epochs?"),
        ({"train": {"epochz": 3}}, "did you mean 'epochs'?"),
    ],
)
def test_a_key_of_a_file_gets_the_same_suggestions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        configs.load_config(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epoch", "3"], "unknown flag --epoch; did you mean '--epochs'?"),
        (["--optim.learning_rate", "1"], "unknown flag --optim.learning_rate; did you mean '--optim.lr'?"),
        (["--learning-rate", "1"], "did you mean '--lr'?"),
        (["--imgsz", "224"], "did you mean '--image-size'?"),
        (["--arch", "x"], "did you mean '--model'?"),
        (["--model.architecture", "x"], "did you mean '--model.name'?"),
        (["--pretrained"], "did you mean '--weights'?"),
        (["--num-workers", "4"], "did you mean '--workers'? It is the number of processes that train; images need no"),
        (["--batch-sizes", "4"], "did you mean '--batch-size'?"),
        (["--wd", "4"], "did you mean '--optim.weight_decay'?"),
        (["--modle", "4"], "did you mean '--model'?"),
        (["--optim.lrr", "4"], "did you mean '--optim.lr'?"),
        (["--max-time", "4"], "did you mean '--train.max_time' or '--tune.max_time'?"),
        (["--data", "x"], "is a section, not a setting; did you mean '--store'? Its settings: --data.shards"),
        (["--train.monitor", "val/auc/mean"], "unknown metric 'auc' in 'val/auc/mean'; did you mean 'val/auroc/mean'?"),
        (["--train.monitor", "val/sensitivity/Edema"], "did you mean 'val/recall/Edema'?"),
        (["--train.monitor", "val/aurocc/mean"], "did you mean 'auroc'?"),
        (["--train.monitor", "auroc"], "'auroc' names no part; did you mean 'val/auroc/mean'?"),
        (["--train.monitor", "vall/auroc/mean"], "did you mean 'val'?"),
        (["--tune.metric", "val/acc"], "tune.metric: unknown metric 'acc' in 'val/acc'; did you mean 'val/accuracy'?"),
        (["--tune.constraint", "val/recal/mean >= 0.5"], "tune.constraint: unknown metric 'recal'"),
        (["--report.thresholds.recal", "0.9"], "unknown rule or label 'recal'; did you mean 'recall=0.9'?"),
    ],
)
def test_a_near_miss_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_known_names_pass() -> None:
    for words in (
        ["--train.monitor", "val/recall_at_precision_0.5/mean", "--tune.metric", "val/loss", "val/auroc/Edema"],
        ["--tune.constraint", "val/recall/mean >= 0.8"],
        ["--report.thresholds.recall", "0.9"],
        ["--report.thresholds.Edema", "0.9"],
        ["--train.monitor", "val/auroc/macro"],
    ):
        assert cli.main(["config", *words]) == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("recal=0.9", "did you mean 'recall=0.9'?"),
        ("sensitivity=0.9", "did you mean 'recall=0.9'?"),
        ("specifcity=0.85", "did you mean 'specificity=0.85'?"),
        ("yuden", "did you mean 'youden'?"),
        ("recal", "did you mean 'recall=0.9'?"),
        ("bnana", "thresholds are one number"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "show", "compare"])
def test_a_misspelt_rule_is_one_line(
    command: str, word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    runs = [str(run)] * (2 if command == "compare" else 1)
    assert cli.main([command, *runs, "--thresholds", word]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def write_run(folder: Path) -> Path:
    """A run folder with its settings and labels, and nothing else."""
    import json

    folder.mkdir()
    (folder / "config.yaml").write_text(configs.Config().to_yaml(), encoding="utf-8")
    info = {
        "status": "finished",
        "labels": ["Edema", "Recal"],
        "task": "multilabel",
        "store": {"path": "x", "source": "x"},
    }
    (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
    return folder


def test_a_label_with_a_name_like_a_rule_is_a_label() -> None:
    near_misses.check_rule({"recal": 0.9}, ["recal"])
    near_misses.check_rule({"Edma": 0.9})  # found where the labels are known
    near_misses.check_rule({"recal": 0.9, "Edema": 0.2})
    near_misses.check_rule(0.5)
