"""Loading the config: files, presets and flags are merged and validated once; errors name the closest setting."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cxr_ray import config as cfg
from cxr_ray.errors import UserError


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_flags_override_the_file_setting_by_setting(tmp_path: Path) -> None:
    file = write(tmp_path, "optim: {lr: 0.5, weight_decay: 0.1}\ndata: {uncertain: {Edema: ones}}\n")
    config = cfg.load(file, {"optim": {"lr": 0.25}, "data": {"uncertain": {"Mass": "ignore"}}, "seed": 3})
    assert (config.optim.lr, config.optim.weight_decay, config.seed) == (0.25, 0.1, 3)
    assert config.data.uncertain == {"Edema": "ones", "Mass": "ignore"}
    # A value replaces a mapping.
    assert cfg.load(file, {"data": {"uncertain": "zeros"}}).data.uncertain == "zeros"


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    """PyYAML follows YAML 1.1, where 1e-4 has no dot and so is a string."""
    assert yaml.safe_load("lr: 1e-4") == {"lr": "1e-4"}
    file = write(
        tmp_path,
        "optim: {lr: 1e-4, clip_norm: 1e1}\ndata: {split: {val: 2e-1}, normalize: [5e-1, 1e-1]}\nmodel: {options: {x: 1e-3, y: a}}\n",
    )
    config = cfg.load(file)
    assert config.optim.lr == 1e-4
    assert config.optim.clip_norm == 10.0
    assert config.data.split.val == 0.2
    assert config.data.normalize == (0.5, 0.1)
    assert config.model.options == {"x": 1e-3, "y": "a"}
    assert cfg.load(write(tmp_path, "report: {thresholds: {Edema: 2e-1}}")).report.thresholds == {"Edema": 0.2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optm: {lr: 1}", "optm is not a setting; did you mean 'optim'?"),
        ("optim: {Lr: 1}", "optim.Lr is not a setting; did you mean 'lr'?"),
        ("data: {split: {vall: 0.1}}", "data.split.vall is not a setting; did you mean 'val'?"),
        ("data: {split: {zzz: 0.1}}", "known in data.split: by, val, test, seed"),
        ("optim: {name: addam}", "optim.name"),
        ("data: {split: {val: 1.5}}", "data.split.val: a fraction must be in [0, 1)"),
        ("data: {split: {val: offical}}", "data.split.val"),
        ("train: {epochs: -1}", "train.epochs"),
        ("optim: {lr: fast}", "optim.lr"),
        ("[1, 2]", "not a mapping of settings"),
        ("a: [", "cannot read"),
    ],
)
def test_an_invalid_file_is_an_error_of_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        cfg.load(write(tmp_path, text))
    assert message in str(caught.value)
    assert "c.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_preset_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config file at"):
        cfg.load(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="did you mean 'demo'"):
        cfg.load("preset:dmo")


def test_a_config_written_as_yaml_loads_as_the_same_config(tmp_path: Path) -> None:
    config = cfg.load(
        None, {"data": {"image_size": [224, 192], "normalize": [0.5, 0.25], "labels": ["Edema"]}, "name": "n"}
    )
    loaded = cfg.load(write(tmp_path, config.to_yaml()))
    assert loaded == config
    assert loaded.digest() == config.digest()


@pytest.mark.parametrize(
    ("values", "setting", "expected"),
    [
        ({"optim": {"lr": 0.1}}, "optim.lr", 0.1),
        ({"data": {"uncertain": "ones"}}, "data.uncertain.Edema", "ones"),
        ({"data": {"uncertain": {"Edema": "ones"}}}, "data.uncertain.Edema", "ones"),
        ({"data": {"uncertain": {"Mass": "ones"}}}, "data.uncertain.Edema", None),
        ({"data": {"uncertain": {"No. Finding": "ones"}}}, "data.uncertain.No. Finding", "ones"),
        ({"model": {"options": {}}}, "model.options.width", None),
        ({"seed": 3}, "seed", 3),
    ],
)
def test_the_value_of_a_setting_in_a_config(values: dict[str, Any], setting: str, expected: Any) -> None:
    assert cfg.value_at(values, setting) == expected


def test_the_dotted_names_of_nested_settings_are_those_that_the_value_is_read_by() -> None:
    values = {"train": {"epochs": 3, "lr": {"first": 1.0}}, "seed": 0, "data": {}}
    assert cfg.dotted_names(values) == ["train.epochs", "train.lr.first", "seed"]
    assert [cfg.value_at(values, name) for name in cfg.dotted_names(values)] == [3, 1.0, 0]


def test_load_config_takes_dotted_and_nested_settings(tmp_path: Path) -> None:
    dotted = cfg.load_config("preset:demo", **{"optim.lr": "3e-4", "data.uncertain.No. Finding": "ones"}, seed=7)
    nested = cfg.load_config(
        "preset:demo", optim={"lr": 3e-4}, data={"uncertain": {"No. Finding": "ones"}}, **{"seed": 7}
    )
    assert dotted == nested and (dotted.optim.lr, dotted.seed) == (3e-4, 7)
    assert dotted.data.uncertain == {"No. Finding": "ones"}
    assert dotted.model == cfg.load("preset:demo").model
    assert cfg.load_config() == cfg.Config()
    file = Path(write(tmp_path, "optim: {lr: 0.5, weight_decay: 0.1}"))
    both = cfg.load_config(file, **{"optim.lr": 1, "optim": {"ema": 0.9}})
    assert (both.optim.lr, both.optim.weight_decay, both.optim.ema) == (1.0, 0.1, 0.9)
    assert cfg.load_config(data={"shards": tmp_path}, output=tmp_path).data.shards == str(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim.lrr": 1}, r"the settings: optim\.lrr is not a setting"),
        ({"tain.epochs": 1}, "tain is not a setting; did you mean 'train'"),
        ({"optim": 3, "optim.lr": 1}, "contradict each other"),
        ({"train.epochs.more": 1}, r"train\.epochs"),
        ({"train.epochs": -1}, r"train\.epochs: .*got -1"),
    ],
)
def test_load_config_names_a_wrong_setting(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        cfg.load_config(**settings)
    assert "\n" not in str(caught.value)


def test_a_run_is_the_base_of_a_new_one_next_to_it_or_to_its_sweep(tmp_path: Path) -> None:
    trial = tmp_path / "runs" / "sweep" / "trials" / "0003"
    trial.mkdir(parents=True)
    (tmp_path / "runs" / "sweep" / "sweep.json").write_text("{}")
    body = yaml.safe_dump({"name": "0003", "output": str(trial.parent), "optim": {"lr": 0.5}, "train": {"epochs": 2}})
    alone = tmp_path / "runs" / "first"
    alone.mkdir()
    for folder in (trial, alone):
        (folder / "config.yaml").write_text(body)
        found = cfg.load_config(folder, **{"train.epochs": 20})
        assert (found.name, found.output) == (None, str(tmp_path / "runs"))
        assert (found.optim.lr, found.train.epochs) == (0.5, 20)
        assert cfg.load_config(folder, name="longer").name == "longer"
    with pytest.raises(UserError, match=r"is not a run folder \(it has no config\.yaml\)"):
        cfg.load_config(tmp_path)
    (alone / "run.json").write_text("{}")
    (alone / "config.yaml").write_text(body + "plugins: [mine]\n")
    with pytest.raises(UserError, match="--plugins mine"):
        cfg.load_config(alone)
    assert cfg.load_config(alone, plugins=["mine"]).plugins == ["mine"]
