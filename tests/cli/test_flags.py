"""Flags of a model: every setting as a flag and in a file, and errors that name the closest flag."""

from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from cxr_ray import config as configs
from cxr_ray.cli import flags
from cxr_ray.errors import UserError

# For every setting: words after its flag, and the same value in a YAML file.
WORDS: dict[str, list[tuple[list[str], Any]]] = {
    "name": [(["2026-11-21"], "2026-11-21"), (["17"], "17"), (["null"], None)],
    "output": [(["some where"], "some where"), (["no"], "no")],
    "seed": [(["3"], 3), (["-3"], -3)],
    "seeds": [(["3"], 3)],
    "plugins": [(["mine"], ["mine"]), (["a", "b.c"], ["a", "b.c"]), (["[a, b]"], ["a", "b"]), (["[]"], [])],
    "data.shards": [(["shards/x"], "shards/x"), (["null"], None)],
    "data.features": [(["features/nih"], "features/nih"), (["null"], None)],
    "data.cache": [(["none"], "none"), (["/nvme/stores"], "/nvme/stores")],
    "data.filters": [
        (["none"], "none"),
        (["default"], "default"),
        (["view == 'PA'"], ["view == 'PA'"]),
        (["age > 3", "sex == 'F'"], ["age > 3", "sex == 'F'"]),
    ],
    "data.labels": [
        (["competition5"], "competition5"),
        (["Edema", "No Finding"], ["Edema", "No Finding"]),
        (["[No, Pleural Effusion]"], ["No", "Pleural Effusion"]),
        (["1"], "1"),
    ],
    "data.groups": [
        (
            ["{mine: [Edema, Mass], all of it: [competition5]}"],
            {"mine": ["Edema", "Mass"], "all of it": ["competition5"]},
        )
    ],
    "data.derive": [
        (
            ["{Any fracture: {any: [Rib fracture, No]}, 1: {all: [A]}}"],
            {"Any fracture": {"any": ["Rib fracture", "No"]}, "1": {"all": ["A"]}},
        )
    ],
    "data.task": [(["binary"], "binary")],
    "data.uncertain": [
        (["ones"], "ones"),
        (["{Edema: ones, Pleural Effusion: ignore}"], {"Edema": "ones", "Pleural Effusion": "ignore"}),
    ],
    "data.blank": [(["ignore"], "ignore")],
    "data.eval_uncertain": [(["zeros"], "zeros")],
    "data.split.by": [(["image"], "image")],
    "data.split.val": [(["0.25"], 0.25), (["official"], "official"), ([".5"], 0.5), (["0"], 0.0)],
    "data.split.test": [(["official"], "official"), (["0"], 0.0), (["1e-1"], 0.1)],
    "data.split.seed": [(["9"], 9)],
    "data.split.folds": [(["5"], 5), (["null"], None)],
    "data.split.fold": [(["0"], 0)],
    "data.split.leaks": [(["drop"], "drop")],
    "data.split.near_duplicates": [(["6"], 6), (["null"], None)],
    "data.limit": [(["500"], 500), (["null"], None)],
    "data.oversample_min_count": [(["150"], 150)],
    "data.balance_warning": [(["0.05"], 0.05)],
    "data.image_size": [(["224", "192"], (224, 192)), (["[224, 192]"], (224, 192)), (["null"], None)],
    "data.normalize": [
        (["imagenet"], "imagenet"),
        (["0.5", "0.25"], (0.5, 0.25)),
        (["[0.5, 1e-1]"], (0.5, 0.1)),
        (["none"], "none"),
    ],
    "data.verify": [(["full"], "full"), (["none"], "none")],
    "augment.probability": [(["0"], 0.0)],
    "augment.degrees": [(["10"], 10.0)],
    "augment.translate": [(["0.1"], 0.1)],
    "augment.shear": [(["2.5"], 2.5)],
    "augment.scale": [(["0.2"], 0.2)],
    "augment.brightness": [(["0"], 0.0)],
    "augment.contrast": [(["1e-2"], 0.01)],
    "augment.flip": [(["0.5"], 0.5)],
    "augment.erase": [(["0.25"], 0.25)],
    "augment.mixup": [(["0.2"], 0.2)],
    "model.name": [(["densenet121"], "densenet121")],
    "model.stem": [(["repeat"], "repeat")],
    "model.weights": [(["imagenet"], "imagenet"), (["w/a.pth"], "w/a.pth"), (["none"], "none")],
    "model.dropout": [(["0.5"], 0.5)],
    "model.dropout_where": [(["maps"], "maps")],
    "model.head": [(["append"], "append")],
    "model.freeze_epochs": [(["2"], 2)],
    "model.options": [(["{width: 3, gate: true, act: relu}"], {"width": 3, "gate": True, "act": "relu"})],
    "loss.name": [(["bce"], "bce"), (["focal"], "focal")],
    "loss.pos_weight_power": [(["0.5"], 0.5)],
    "loss.reduction": [(["sum"], "sum")],
    "loss.label_smoothing": [(["0.1"], 0.1)],
    "loss.options": [(["{gamma: 2}"], {"gamma": 2.0})],
    "optim.name": [(["sgd"], "sgd")],
    "optim.lr": [(["1e-4"], 1e-4), (["3"], 3.0)],
    "optim.weight_decay": [(["0.01"], 0.01)],
    "optim.decay_norms": [(["false"], False)],
    "optim.head_lr_factor": [(["10"], 10.0)],
    "optim.schedule": [(["cosine"], "cosine"), (["onecycle"], "onecycle"), (["plateau"], "plateau")],
    "optim.drop_epochs": [(["3"], 3)],
    "optim.drop_factor": [(["0.5"], 0.5)],
    "optim.warmup_epochs": [(["0.5"], 0.5)],
    "optim.clip_norm": [(["1"], 1.0), (["null"], None), (["none"], None)],
    "optim.ema": [(["0.999"], 0.999)],
    "train.epochs": [(["0"], 0), (["12"], 12)],
    "train.batch_size": [(["7"], 7)],
    "train.micro_batch": [(["4"], 4), (["null"], None), (["auto"], "auto")],
    "train.workers": [(["2"], 2)],
    "train.gpu": [(["auto"], "auto"), (["false"], False), (["true"], True), ([], True)],
    "train.resources_per_worker": [(["{CPU: 4, special: 0.5}"], {"CPU": 4.0, "special": 0.5})],
    "train.threads": [(["2"], 2), (["null"], None)],
    "train.precision": [(["bf16"], "bf16"), (["fp16"], "fp16")],
    "train.compile": [(["true"], True), ([], True), (["false"], False)],
    "train.sync_batch_norm": [
        (["false"], False),
        (["true"], True),
        ([], True),
    ],  # the first case must agree with micro_batch
    "train.monitor": [(["val/f1/mean"], "val/f1/mean")],
    "train.monitor_mode": [(["min"], "min"), (["auto"], "auto")],
    "train.select": [(["last"], "last")],
    "train.patience": [(["3"], 3), (["null"], None)],
    "train.checkpoint_minutes": [(["0.5"], 0.5), (["null"], None)],
    "train.max_time": [(["90"], 90.0), (["null"], None)],
    "train.min_workers": [(["1"], 1), (["null"], None)],
    "train.max_failures": [(["0"], 0)],
    "train.log_rows": [(["true"], True), ([], True)],
    "tune.trials": [(["3"], 3)],
    "tune.metric": [
        (["val/f1/mean"], "val/f1/mean"),
        (["val/auroc/mean", "val/recall/mean"], ["val/auroc/mean", "val/recall/mean"]),
    ],
    "tune.mode": [(["min"], "min"), (["[max]"], ["max"]), (["[auto]"], ["auto"])],
    "tune.constraint": [(["val/recall/mean >= 0.8"], "val/recall/mean >= 0.8"), (["null"], None)],
    "tune.search": [(["grid"], "grid")],
    "tune.scheduler": [(["none"], "none"), (["pbt"], "pbt")],
    "tune.grace_epochs": [(["2"], 2), (["auto"], "auto")],
    "tune.reduction": [(["4"], 4.0)],
    "tune.base": [(["false"], False)],
    "tune.folds": [(["5"], 5), (["null"], None)],
    "tune.ensemble": [(["5"], 5)],
    "tune.max_concurrent": [(["2"], 2), (["auto"], "auto")],
    "tune.trial_gpus": [(["0.25"], 0.25), (["null"], None)],
    "tune.max_time": [(["60"], 60.0), (["null"], None)],
    "tune.retries": [(["0"], 0)],
    "tune.hang_minutes": [(["5"], 5.0)],
    "tune.space": [
        (
            ["{optim.lr: {loguniform: [1.0e-6, 0.1]}, seed: {choice: [0, 1]}}"],
            {"optim.lr": {"loguniform": [1.0e-6, 0.1]}, "seed": {"choice": [0, 1]}},
        ),
    ],
    "tune.combinations": [(["[{model.name: lenet, seed: 3}]"], [{"model.name": "lenet", "seed": 3}])],
    "report.trackers": [(["[]"], []), (["tensorboard", "mlflow"], ["tensorboard", "mlflow"])],
    "report.labels": [(["Edema"], "Edema"), (["Edema", "Mass"], ["Edema", "Mass"])],
    "report.thresholds": [
        (["0.3"], 0.3),
        (["{Edema: 0.2}"], {"Edema": 0.2}),
        (["youden"], "youden"),
        (["{recall: 0.9}"], {"recall": 0.9}),
    ],
    "report.assurance": [(["0.9"], 0.9), (["null"], None)],
    "report.images": [(["false"], False)],
    "report.interval": [(["bca"], "bca")],
    "report.bootstrap": [(["0"], 0)],
    "report.interval_by": [(["image"], "image")],
    "report.keep_predictions": [(["true"], True), ([], True), (["false"], False)],
    "report.rivals": [(["off"], False)],
}
NAMED: list[tuple[str, str, Any]] = [
    ("data.groups.mine", "Edema", {"data": {"groups": {"mine": ["Edema"]}}}),
    ("data.uncertain.Edema", "smooth", {"data": {"uncertain": {"Edema": "smooth"}}}),
    ("data.uncertain.Edema", "ones", {"data": {"uncertain": {"Edema": "ones"}}}),
    ("data.uncertain.Pleural Effusion", "ignore", {"data": {"uncertain": {"Pleural Effusion": "ignore"}}}),
    ("data.uncertain.COVID-19", "ones", {"data": {"uncertain": {"COVID-19": "ones"}}}),
    ("report.thresholds.Edema", "0.2", {"report": {"thresholds": {"Edema": 0.2}}}),
    ("train.resources_per_worker.CPU", "2", {"train": {"resources_per_worker": {"CPU": 2.0}}}),
    ("train.resources-per-worker.CPU", "2", {"train": {"resources_per_worker": {"CPU": 2.0}}}),
    ("model.options.width", "3", {"model": {"options": {"width": 3}}}),
    ("model.options.act", "relu", {"model": {"options": {"act": "relu"}}}),
    ("loss.options.gamma", "1e-1", {"loss": {"options": {"gamma": 0.1}}}),
]


def get(config: Any, setting: str) -> Any:
    for part in setting.split("."):
        config = getattr(config, part)
    return config


def nest(setting: str, value: Any) -> dict[str, Any]:
    *sections, last = setting.split(".")
    out: dict[str, Any] = {last: value}
    for section in reversed(sections):
        out = {section: out}
    return out


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def loaded(words: list[str]) -> configs.Config:
    rest, values = flags.parse(words, configs.Config)
    assert rest == []
    return configs.load(None, values)


def test_every_setting_has_a_case() -> None:
    assert sorted(WORDS) == sorted(name for name, _ in flags.settings(configs.Config))


@pytest.mark.parametrize("setting", sorted(WORDS))
def test_flag_and_file_give_the_same(setting: str) -> None:
    """The flag, the flag with dashes, and a YAML file give the same config."""
    for words, value in WORDS[setting]:
        from_file = configs.validate(yaml.safe_load(yaml.safe_dump(nest(setting, plain(value)))))
        assert get(from_file, setting) == value
        assert loaded([f"--{setting}", *words]) == from_file
        assert (
            loaded(
                [f"--{setting.replace('_', '-')}", *words, "--data.split.by", "patient"]
                if setting != "data.split.by"
                else [f"--{setting}", *words]
            )
            == from_file
        )
        if len(words) == 1:
            assert loaded([f"--{setting}={words[0]}"]) == from_file


@pytest.mark.parametrize("setting", sorted(WORDS))
def test_a_default_as_a_flag_gives_the_default(setting: str) -> None:
    default = get(configs.Config(), setting)
    words = [flags.plain(default).strip("'")]  # lists as YAML, as `cxr-ray config` prints them
    assert loaded([f"--{setting}", *words]) == configs.Config()


@pytest.mark.parametrize(("flag", "word", "values"), NAMED)
def test_a_flag_may_set_the_value_of_one_name(flag: str, word: str, values: dict[str, Any]) -> None:
    assert flags.parse([f"--{flag}", word], configs.Config) == ([], values)
    configs.validate(values)


def test_commented_yaml_loads_as_the_same_config() -> None:
    """`train -c` reads the output of `cxr-ray config`."""
    changed = [word for setting, cases in WORDS.items() for word in (f"--{setting}", *cases[0][0])]
    for config in (configs.Config(), loaded(changed)):
        text = flags.commented_yaml(configs.Config, config.model_dump(mode="json"))
        assert configs.validate(yaml.safe_load(text)) == config
        assert all(f"{name.rpartition('.')[2]}:" in text for name in WORDS)
    differ = [setting for setting in WORDS if get(loaded(changed), setting) != get(configs.Config(), setting)]
    assert len(differ) >= len(WORDS) - 4  # otherwise the round trip would prove little


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in flags.settings(configs.Config) if not field.description] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.lrr", "1"], "'--optim.lr'"),
        (["--otim.lr", "1"], "'--optim.lr'"),
        (["--lr", "1"], "'--optim.lr'"),
        (["--batch-size", "1"], "'--train.batch_size'"),
        (["--data.image-sizes", "1"], "'--data.image_size'"),
        (["--data.splt.val", "1"], "'--data.split.val'"),
        (["--optim.lr.x", "1"], "has no names below it"),
        (["--data", "1"], "--data.shards"),
        (["--optim.lr"], "needs a value"),
        (["--optim.lr", "1", "--optim.lr", "2"], "given twice"),
        (["--data.uncertain", "ones", "--data.uncertain.Edema", "zeros"], "contradict"),
        (["--data.uncertain.Edema", "zeros", "--data.uncertain", "ones"], "given twice"),
        (["--data.labels", "[a"], "cannot read"),
        (["-z"], "unknown flag -z"),
        (["--adress", "auto"], "'--address'"),
    ],
)
def test_an_unknown_flag_names_the_closest(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        flags.parse(words, configs.Config, also=["--address"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.lr", "banana"], "optim.lr"),
        (["--optim.lr", "-1"], "optim.lr"),
        (["--train.workers", "1.5"], "train.workers"),
        (["--data.split.val", "offical"], "data.split.val"),
        (["--data.image_size", "224"], "data.image_size"),
        (["--train.gpu", "maybe"], "train.gpu"),
        (["--data.uncertain.Edema", "one"], "data.uncertain"),
    ],
)
def test_an_invalid_value_names_its_setting(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        loaded(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Example(BaseModel):
    positive: str | None = None
    classes: list[str] = []
    keep: bool = False
    level: Literal["low", "high"] = "low"
    size: int = Field(default=3, description="How big.")


def test_positional_words_keep_their_order_wherever_flags_are() -> None:
    for words in (
        ["--positive", "A", "src", "--keep", "root", "out", "--classes", "a", "--classes", "b"],
        ["src", "root", "--keep", "--classes", "a", "out", "--positive=A", "--classes=b"],
        ["src", "root", "out", "--keep", "true", "--positive", "A", "--classes", "[a, b]"],
    ):
        rest, values = flags.parse(words, Example, greedy=False)
        assert rest == ["src", "root", "out"]
        assert values == {"positive": "A", "keep": True, "classes": ["a", "b"]}


def test_help_shows_type_default_and_meaning() -> None:
    assert flags.help_lines(Example)[-1] == "- `--size` (whole number; default 3) How big."
    assert len(flags.help_lines(configs.Config)) == len(WORDS)
    assert flags.type_name(float | dict[str, float]) == "number | {NAME: number}"
    assert flags.type_name(Literal["auto"] | bool) == "auto | true | false"
    assert flags.type_name(tuple[int, int] | None) == "[whole number, whole number] | null"
