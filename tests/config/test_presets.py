"""The presets: their comments, the settings of the documents they reproduce, and a small training of each on real images.

Of a sweep, every trial is checked and one is trained."""

import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from cxr_ray import config as cfg
from cxr_ray import datasets, models
from cxr_ray.datasets.phantom import generate
from cxr_ray.on_ray import train as on_ray
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from cxr_ray.training.setup import store_info
from cxr_ray.tuning import setup, space
from cxr_ray.tuning import sweep as sweeps

PRESETS = sorted((Path(__file__).resolve().parents[2] / "jobs" / "configs").glob("*.yaml"))
LAYOUTS = {
    "chexpert": ("chexpert", "CheXpert-v1.0-small"),
    "covid_radiography": ("covid_radiography", "COVID-19_Radiography_Dataset"),
    "covid_binary": ("image_folder", "covid_binary"),
    "three_class": ("image_folder", "three_class"),
}
SMALL = {
    "data": {"limit": 48, "image_size": [64, 64]},
    "model": {"weights": "none"},
    "train": {"epochs": 1, "batch_size": 16, "precision": "fp32"},
    "report": {"trackers": []},
}


# The settings of the documents that the presets reproduce, and our choices where the documents state nothing (each preset's comment
# lists them). All settings are listed, so that the change of a default is noticed too.
AUGMENT = {"degrees": 5, "translate": 0.05, "shear": 5, "brightness": 0.2, "contrast": 0.1,
           "flip": 0, "scale": 0, "erase": 0, "mixup": 0}  # fmt: skip
RADIOGRAPHY: dict[str, Any] = {
    "data.split.by": "image", "data.split.val": 0.1, "data.split.test": 0.2, "data.normalize": "imagenet", "data.image_size": None,
    "data.labels": "all", "data.oversample_min_count": 0, "augment.probability": 0, "model.stem": "gray", "model.weights": "imagenet",
    "model.dropout": 0, "model.head": "replace", "loss.name": "auto", "loss.pos_weight_power": 0, "loss.reduction": "mean",
    "optim.name": "adam", "optim.lr": 1e-4, "optim.weight_decay": 0, "optim.schedule": "constant", "train.epochs": 1,
    "train.batch_size": 32, "train.monitor": "val/accuracy", "train.mode": "max", "train.select": "best",
}  # fmt: skip
CHEXPERT: dict[str, Any] = {
    "data.split.by": "patient", "data.split.val": 0.2, "data.split.test": 0, "data.normalize": (0.5064167, 0.16673872),
    "data.uncertain": "zeros", "data.blank": "zeros", "data.eval_uncertain": "zeros", "data.filters": "default",
    "data.labels": ["competition5"], "data.oversample_min_count": 150, "data.image_size": None, "augment.probability": 0.4,
    **{f"augment.{name}": value for name, value in AUGMENT.items()}, "model.stem": "gray", "model.weights": "none", "model.dropout": 0,
    "model.head": "append", "loss.name": "auto", "loss.pos_weight_power": 1, "loss.reduction": "sum", "optim.name": "adam",
    "optim.lr": 1e-5, "optim.weight_decay": 0.1, "optim.schedule": "constant", "train.epochs": 4,
    "train.monitor": "val/auroc/mean", "train.mode": "max", "train.select": "best",
}  # fmt: skip
EXERCISE = {"model.name": "resnet34", "data.split.test": 0.1, "train.epochs": 5, "train.monitor": "val/f1/mean"}
NOTEBOOK = {
    "model.name": "covid_cnn", "model.stem": "repeat", "model.weights": "none", "data.split.by": "patient",
    "data.split.val": "official", "data.split.test": 0, "data.normalize": "none", "optim.lr": 0.01, "train.epochs": 50,
    "train.select": "last",
}  # fmt: skip
RESNET = {"model.name": "resnet34", "model.dropout": 0.5, "model.dropout_where": "maps", "train.batch_size": 64}
DEFAULTS = {
    "model.name": "resnet34", "data.labels": "all", "data.oversample_min_count": 0, "augment.probability": 0.2,
    "loss.pos_weight_power": 0, "loss.reduction": "mean", "optim.weight_decay": 0, "train.batch_size": 64,
}  # fmt: skip
EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "covid_radiography_resnet18": ("--size 224", RADIOGRAPHY | {"model.name": "resnet18"}),
    "covid_radiography_resnet34": ("--size 224", RADIOGRAPHY | EXERCISE),
    "covid_radiography_vit_b_16": ("--size 224", RADIOGRAPHY | {"model.name": "vit_b_16"}),
    "covid_binary_notebook": ("--size 224 --aspect center_crop", RADIOGRAPHY | NOTEBOOK),
    "chexpert_resnet34": ("--size 320", CHEXPERT | RESNET),
    "chexpert_densenet121": ("--size 224", CHEXPERT | {"model.name": "densenet121", "train.batch_size": 16}),
    "chexpert_defaults": ("--size 320", CHEXPERT | DEFAULTS),
}


def comments(preset: Path) -> str:
    return "\n".join(line for line in preset.read_text(encoding="utf-8").splitlines() if line.startswith("#"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_each_is_valid_and_states_its_command_hardware_and_measurements(preset: Path) -> None:
    config = cfg.load(f"preset:{preset.stem}")
    assert config == cfg.load(str(preset))
    assert config.data.shards is None  # only the user knows where the store is
    text = comments(preset)
    assert preset.read_text(encoding="utf-8").startswith(text)
    assert f"preset:{preset.stem}" in text
    assert "Hardware:" in text
    assert "Measured" in text


def test_the_documented_presets_exist() -> None:
    assert {path.stem for path in PRESETS} >= {
        "demo",
        "covid_binary_notebook",
        "three_class_mobilenet",
        "covid_radiography_resnet18",
        "chexpert_densenet121",
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_a_preset_has_the_settings_of_its_document(name: str) -> None:
    ingest_flags, settings = EXPECTED[name]
    config = cfg.load(f"preset:{name}")
    assert {setting: attrgetter(setting)(config) for setting in settings} == settings
    assert re.search(
        rf"cxr-ray ingest .* {ingest_flags}(\s|$)", cfg.preset_path(name).read_text(encoding="utf-8"), re.M
    )


def test_the_notebook_preset_has_the_parameters_of_the_notebook() -> None:
    """32 x (3 x 9 + 1), 64 x (32 x 9 + 1), 128 x (64 x 9 + 1), 64 x (512 + 1) and 64 + 1, by hand."""
    model = cfg.load("preset:covid_binary_notebook").model
    with models.skeletons():
        built = models.build(model, outputs=1, image_size=(224, 224), mean=0.0, deviation=1.0)
    assert models.parameter_count(built) == 896 + 18_496 + 73_856 + 32_832 + 65


@pytest.fixture(scope="module")
def stores(shared_data, ray_local, tmp_path_factory) -> dict[str, Path]:
    """A store of every layout that a preset is for, by the prefix of the preset's name."""
    folder = tmp_path_factory.mktemp("presets")
    subprocess.run([sys.executable, shared_data / "layouts.py", folder], check=True, capture_output=True)
    made: dict[str, Path] = {}
    for name, (source, root) in LAYOUTS.items():
        records = datasets.load(source, folder / root)
        made[name] = folder / "shards" / name
        ingest(records, folder / root, made[name], IngestSettings(source=source, size=(64, 64)))
    phantom = generate.write(folder / "phantom", patients=40, size=64, seed=1)
    records = datasets.load("phantom", phantom)
    made["demo"] = folder / "shards" / "demo"
    ingest(records, phantom, made["demo"], IngestSettings(source="phantom", size=(64, 64)))
    return made


@pytest.mark.long
@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_trains_on_its_dataset(preset: Path, stores, tmp_path):
    store = next(path for name, path in stores.items() if preset.stem.startswith(name))
    config = cfg.load(
        f"preset:{preset.stem}", cfg.merge(SMALL, {"output": str(tmp_path), "data": {"shards": str(store)}})
    )
    if config.data.oversample_min_count:  # 150 rows per vector would not be small
        config = config.model_copy(update={"data": config.data.model_copy(update={"oversample_min_count": 2})})
    if config.tune == cfg.Tune():
        run = on_ray.train(
            config.model_copy(update={"train": config.train.model_copy(update={"workers": 1})}), log=lambda line: None
        )
    else:
        sweep = create_sweep(config)
        run = on_ray.train(sweep.trial_config(sweep.trial_records[0]), log=lambda line: None)
    assert run.info["status"] == "finished" and run.weights.exists()
    losses = run.metrics.query("metric == 'loss' and label == ''")
    assert set(losses["epoch"]) == {0, 1} and (losses["value"] > 0).all()


def create_sweep(config: cfg.Config) -> sweeps.Sweep:
    """The sweep's folder with its trials; every architecture and loss of them is built once."""
    store, plan, base, _ = setup.prepare_sweep(config)
    searched = space.parse(config.tune, base, plan.labels)
    about = {
        "labels": list(plan.labels),
        "task": plan.task,
        "knobs": setup.hyperparameter_names(config.tune, searched),
        "metrics": config.tune.metrics,
    }
    sweep = sweeps.create(base.model_copy(update={"tune": config.tune}), store=store_info(store), about=about)
    proposals = setup.plan_trials(sweep, searched, plan, store)
    assert proposals.planned == len(sweep.trial_records) > 5
    return sweep
