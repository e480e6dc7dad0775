"""Every preset that comes with cxr-ray trains on real images at small size: of a sweep every trial is checked and one trained."""

import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ray import config as cfg
from cxr_ray import phantom, sources, sweeps
from cxr_ray.on_ray import train as on_ray
from cxr_ray.on_ray import tune as sweeping
from cxr_ray.on_ray.ingest import ingest

PRESETS = sorted((Path(__file__).resolve().parents[1] / "jobs" / "configs").glob("*.yaml"))
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


@pytest.fixture(scope="module")
def stores(shared_data, ray_local, tmp_path_factory) -> dict[str, Path]:
    """A store of every layout that a preset is for, by the start of the preset's name."""
    folder = tmp_path_factory.mktemp("presets")
    subprocess.run([sys.executable, shared_data / "layouts.py", folder], check=True, capture_output=True)
    made = {}
    for name, (source, root) in LAYOUTS.items():
        records = sources.load(source, folder / root)
        made[name] = ingest(records, folder / root, folder / "shards" / name, source=source, size=(64, 64)).path
    drawn = phantom.write(folder / "drawn", patients=40, size=64, seed=1)
    records = sources.load("phantom", drawn)
    made["demo"] = ingest(records, drawn, folder / "shards" / "demo", source="phantom", size=(64, 64)).path
    return made


@pytest.mark.long
@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_it_trains_on_what_it_is_for(preset: Path, stores, tmp_path):
    store = next(path for name, path in stores.items() if preset.stem.startswith(name))
    config = cfg.load(
        f"preset:{preset.stem}", cfg.merge(SMALL, {"output": str(tmp_path), "data": {"shards": str(store)}})
    )
    if config.data.oversample_min_count:  # 150 draws of every vector of 48 rows would be no small size
        config = config.model_copy(update={"data": config.data.model_copy(update={"oversample_min_count": 2})})
    if config.tune == cfg.Tune():
        run = on_ray.train(
            config.model_copy(update={"train": config.train.model_copy(update={"workers": 1})}), say=lambda line: None
        )
    else:
        sweep = checked(config)
        run = on_ray.train(sweep.trial_config(sweep.trials[0]), say=lambda line: None)
    assert run.info["status"] == "finished" and run.weights.exists()
    losses = run.metrics.query("metric == 'loss' and label == ''")
    assert set(losses["epoch"]) == {0, 1} and (losses["value"] > 0).all()


def checked(config: cfg.Config) -> sweeps.Sweep:
    """The sweep's folder with its trials, every architecture and loss of them built once."""
    store, plan, base, _ = sweeping._checked(config)
    searched = sweeping.space.parse(config.tune, base, plan.labels)
    about = {
        "labels": list(plan.labels),
        "task": plan.task,
        "knobs": sweeping._knobs(config.tune, searched),
        "metrics": config.tune.metrics,
    }
    sweep = sweeps.create(base.model_copy(update={"tune": config.tune}), store=on_ray.identity(store), about=about)
    proposals = sweeping._proposals(sweep, searched, plan, store)
    assert proposals.planned == len(sweep.trials) > 5
    return sweep


def test_each_says_its_command_its_hardware_and_what_it_measured():
    for preset in PRESETS:
        head = preset.read_text(encoding="utf-8").split("\n\n")[0]
        assert f"preset:{preset.stem}" in head or preset.stem == "demo", preset.name
        assert "Hardware:" in head and "Measured" in head, preset.name
