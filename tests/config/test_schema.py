"""The config: files, presets and flags meet in one validation, and mistakes name the closest knob."""

from pathlib import Path

import pytest
import yaml

from cxr_ray import config as configs
from cxr_ray.errors import UserError

PRESETS = sorted((Path(__file__).resolve().parents[2] / "jobs" / "configs").glob("*.yaml"))


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_everything_has_a_default_but_the_shards() -> None:
    config = configs.load()
    assert config == configs.Config()
    assert config.data.shards is None


def test_flags_are_laid_over_the_file_deep(tmp_path: Path) -> None:
    file = write(tmp_path, "optim: {lr: 0.5, weight_decay: 0.1}\ndata: {uncertain: {Edema: ones}}\n")
    config = configs.load(file, {"optim": {"lr": 0.25}, "data": {"uncertain": {"Mass": "ignore"}}, "seed": 3})
    assert (config.optim.lr, config.optim.weight_decay, config.seed) == (0.25, 0.1, 3)
    assert config.data.uncertain == {"Edema": "ones", "Mass": "ignore"}
    assert (
        configs.load(file, {"data": {"uncertain": "zeros"}}).data.uncertain == "zeros"
    )  # a value replaces a mapping whole


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    """PyYAML follows YAML 1.1, where 1e-4 has no dot and so is a string."""
    assert yaml.safe_load("lr: 1e-4") == {"lr": "1e-4"}
    file = write(
        tmp_path,
        "optim: {lr: 1e-4, clip_norm: 1e1}\ndata: {split: {val: 2e-1}, normalize: [5e-1, 1e-1]}\nmodel: {options: {x: 1e-3, y: a}}\n",
    )
    config = configs.load(file)
    assert config.optim.lr == 1e-4
    assert config.optim.clip_norm == 10.0
    assert config.data.split.val == 0.2
    assert config.data.normalize == (0.5, 0.1)
    assert config.model.options == {"x": 1e-3, "y": "a"}
    assert configs.load(write(tmp_path, "report: {thresholds: {Edema: 2e-1}}")).report.thresholds == {"Edema": 0.2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optm: {lr: 1}", "optm is not a knob; did you mean 'optim'?"),
        ("optim: {Lr: 1}", "optim.Lr is not a knob; did you mean 'lr'?"),
        ("data: {split: {vall: 0.1}}", "data.split.vall is not a knob; did you mean 'val'?"),
        ("data: {split: {zzz: 0.1}}", "known in data.split: by, val, test, seed"),
        ("optim: {name: addam}", "optim.name"),
        ("data: {split: {val: 1.5}}", "data.split.val: a share lies in [0, 1)"),
        ("data: {split: {val: offical}}", "data.split.val"),
        ("train: {epochs: -1}", "train.epochs"),
        ("optim: {lr: fast}", "optim.lr"),
        ("[1, 2]", "not a mapping"),
        ("a: [", "cannot read"),
    ],
)
def test_a_wrong_file_is_one_line_that_says_where(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        configs.load(write(tmp_path, text))
    assert said in str(caught.value)
    assert "c.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_presets_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config file at"):
        configs.load(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="did you mean 'demo'"):
        configs.load("preset:dmo")


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = configs.load(
        None, {"data": {"image_size": [224, 192], "normalize": [0.5, 0.25], "labels": ["Edema"]}, "name": "n"}
    )
    again = configs.load(write(tmp_path, config.to_yaml()))
    assert again == config
    assert again.digest() == config.digest()


def test_digest_is_of_the_experiment_not_of_its_name() -> None:
    plain = configs.Config()
    assert configs.load(None, {"name": "x", "output": "elsewhere"}).digest() == plain.digest()
    assert configs.load(None, {"seed": 1}).digest() != plain.digest()


def test_classes_are_watched_by_accuracy_unless_said_otherwise() -> None:
    assert configs.Config().for_task("multiclass").train.monitor == "val/accuracy"
    assert configs.Config().for_task("multilabel").train.monitor == "val/auroc/mean"
    said = configs.load(None, {"train": {"monitor": "val/auroc/mean"}})
    assert said.for_task("multiclass").train.monitor == "val/auroc/mean"


@pytest.mark.parametrize(
    ("metric", "mode"),
    [("val/loss", "min"), ("val/loss/Edema", "min"), ("val/hamming", "min"), ("val/brier/macro", "min"),
     ("val/ece/mean", "min"), ("train/loss", "min"), ("val/auroc/mean", "max"), ("val/f1/loss", "max"), ("val/accuracy", "max")],
)  # fmt: skip
def test_whether_more_is_better_is_the_metrics_to_say_unless_it_is_said(metric: str, mode: str) -> None:
    assert configs.Train(monitor=metric).mode == mode
    assert configs.Tune(metric=metric).modes == [mode]
    assert configs.Train(monitor=metric, monitor_mode="max").mode == "max"
    assert configs.Tune(metric=[metric, "val/ap/mean"], mode=["min", "auto"]).modes == ["min", "max"]


@pytest.mark.parametrize("micro", [4, "auto"])
def test_batch_norm_over_ranks_takes_no_pieces(micro: int | str) -> None:
    with pytest.raises(UserError, match=r"sync_batch_norm and micro_batch: .* leave one out"):
        configs.load(None, {"train": {"sync_batch_norm": True, "micro_batch": micro}})


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid_named_and_say_how_they_are_run(path: Path) -> None:
    config = configs.load(f"preset:{path.stem}")
    assert config == configs.load(str(path))
    assert config.data.shards is None  # whose shards, only the user knows
    text = path.read_text(encoding="utf-8")
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert f"preset:{path.stem}" in comments
    assert "Hardware" in comments
    assert "Measured" in comments or "measured" in comments


def test_the_presets_of_the_issue_are_there() -> None:
    assert {path.stem for path in PRESETS} >= {
        "demo",
        "covid_binary_notebook",
        "three_class_mobilenet",
        "covid_radiography_resnet18",
        "chexpert_densenet121",
    }


def test_notebook_preset_is_the_notebook() -> None:
    config = configs.load("preset:covid_binary_notebook")
    assert (config.model.name, config.optim.name, config.optim.lr) == ("covid_cnn", "adam", 0.01)
    assert (config.train.epochs, config.train.batch_size, config.train.select) == (50, 32, "last")
    assert (config.data.normalize, config.augment.probability) == ("none", 0.0)
    assert (config.data.split.val, config.data.split.test) == ("official", 0.0)
