"""The pages `docs/how-to/add-a-*.md`: each shows one file, which is used here as it stands there."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import cxr_ray
from cxr_ray import cli, registry
from cxr_ray.data import store as stores
from cxr_ray.data import store_writer
from cxr_ray.errors import UserError
from cxr_ray.metrics import compute_metrics
from tests.fakes.images import encoded
from tests.fakes.store import fake_store

PAGES = Path(__file__).resolve().parents[2] / "docs" / "how-to"
FILE = re.compile(r"```\{code-block\} python\n:caption: (\w+)\.py\n\n(.*?)```", re.DOTALL)
CONFIG = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], tuple[str, dict[str, Any]]]]:
    """Writes the file of a page to a folder that Python imports from; gives the module's name and the page's settings."""
    names: list[str] = []
    monkeypatch.syspath_prepend(tmp_path)
    registries = (registry.SOURCES, registry.MODELS, registry.LOSSES, registry.METRICS)
    before = [{entry.name for entry in one} for one in registries]

    def write(page: str) -> tuple[str, dict[str, Any]]:
        text = (PAGES / page).read_text(encoding="utf-8")
        found = FILE.search(text)
        assert found is not None
        (tmp_path / f"{found[1]}.py").write_text(found[2], encoding="utf-8")
        names.append(found[1])
        config = CONFIG.search(text)
        return found[1], yaml.safe_load(config[1]) if config else {}

    yield write
    for name in names:
        sys.modules.pop(name, None)
    for one, known in zip(registries, before, strict=True):
        for name in {entry.name for entry in one} - known:
            one.unregister(name)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.Store:
    fake = fake_store(60)
    table = fake.index.drop(columns=["mean", "variance"])
    return store_writer.write(tmp_path_factory.mktemp("pages") / "shards", fake.pixels, table, fake.info)


def trained(store: stores.Store, out: Path, settings: dict[str, Any]) -> cxr_ray.Run:
    """A training of one epoch with the settings of a page."""
    base = {
        "data.split.val": 0.3,
        "train.epochs": 1,
        "train.precision": "fp32",
        "report.trackers": [],
        "report.bootstrap": 0,
    }
    own = {
        f"{section}.{key}": value
        for section, keys in settings.items()
        if section != "plugins"
        for key, value in keys.items()
    }
    config = {
        "model.name": "lenet",
        "report.rivals": False,
        **base,
        **own,
        "data.shards": store,
        "output": out,
        "name": "run",
    }
    return cxr_ray.train({**config, "plugins": settings["plugins"]}, log=lambda line: None)


def test_a_dataset(module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, _ = module("add-a-dataset.md")
    rows = [
        ("a", "1", "final", "yes"),
        ("b", "1", "final", "no"),
        ("c", "2", "draft", "yes"),
        ("d", "3", "final", "maybe"),
        ("e", "4", "final", None),
    ]
    films = pd.DataFrame(rows, columns=["file", "patient", "status", "edema"])
    films["file"] += ".png"
    (tmp_path / "films" / "images").mkdir(parents=True)
    films.to_csv(tmp_path / "films" / "films.csv", sep=";", index=False)
    for file in films["file"]:
        (tmp_path / "films" / "images" / file).write_bytes(encoded(np.full((20, 20), 90, np.uint8)))
    words = ["ingest", "hospital", str(tmp_path / "films"), str(tmp_path / "shards"), "--dry-run", "--size", "16"]
    assert cli.main(words) == 2 and "unknown source 'hospital'" in capsys.readouterr().err
    assert cli.main([*words, "--plugins", name]) == 0
    shown = capsys.readouterr().out
    assert "4" in shown and f"--plugins {name}" in shown.splitlines()[-1]
    read = cxr_ray.read_dataset("hospital", tmp_path / "films")
    assert read.table["image"].tolist() == ["images/a.png", "images/b.png", "images/d.png", "images/e.png"]
    assert read.table["patient"].tolist() == ["1", "1", "3", "4"]
    np.testing.assert_array_equal(read.table["Edema"], np.array([1, 0, -1, np.nan], np.float32))
    assert len(cxr_ray.read_dataset("hospital", tmp_path / "films", with_drafts=True).table) == 5


def test_a_model(module: Any, store: stores.Store, tmp_path: Path) -> None:
    name, settings = module("add-a-model.md")
    run = trained(store, tmp_path / "runs", settings)
    assert run.config.plugins == [name] and run.config.model.name == "small_net"
    predictor = cxr_ray.load_predictor(run.path, plugins=[name])
    weights = [p for p in cxr_ray.load_model(run.path, plugins=[name]).parameters() if p.dim() == 4]
    assert [list(p.shape) for p in weights] == [[16, 1, 3, 3], [32, 16, 3, 3]]  # model.options.width is 16 on the page
    assert predictor(store.images([3, 6])).shape == (2, 3)
    assert set(cxr_ray.explain(run, limit=2, methods=["saliency", "lrp_epsilon"]).maps) == {"saliency", "lrp_epsilon"}


def test_a_loss(module: Any, store: stores.Store, tmp_path: Path) -> None:
    """The metric `loss` of an epoch is the page's formula on the logits of val."""
    _, settings = module("add-a-loss.md")
    run = trained(store, tmp_path / "runs", settings)
    table = run.predictions("val")
    truth = store.index.set_index("row").loc[table["row"], list(store.labels)].to_numpy(float)
    prob = table[[f"prob/{label}" for label in store.labels]].to_numpy(float)
    cross = -(truth * np.log(prob) + (1 - truth) * np.log(1 - prob))
    measured = run.metrics.query(
        "part == 'val' and metric == 'loss' and label == '' and epoch == @run.info['best']['epoch']"
    )
    assert measured["value"].item() == pytest.approx((np.abs(prob - truth) ** 2 * cross).mean(), rel=1e-3)


def test_a_metric(module: Any, store: stores.Store, tmp_path: Path) -> None:
    _, settings = module("add-a-metric.md")
    run = trained(store, tmp_path / "runs", {**settings, "data": {"split.test": 0.3}})
    assert run.info["best"]["metric"] == "val/g_mean/mean"
    evaluation = cxr_ray.evaluate(run, split="val", thresholds=0.4)
    values = {(v["metric"], v["label"]): v["value"] for v in evaluation.results["values"]}
    expected = [np.sqrt(values["recall", label] * values["specificity", label]) for label in store.labels]
    assert [values["g_mean", label] for label in store.labels] == pytest.approx(expected)
    assert values["g_mean", "mean"] == pytest.approx(np.mean(expected))
    with pytest.raises(UserError, match="unknown metric 'gmean' in 'val/gmean/mean'; did you mean 'g_mean'"):
        trained(store, tmp_path / "other", {**settings, "train": {"monitor": "val/gmean/mean"}})


def test_a_metric_without_value_is_absent_and_a_taken_name_is_refused(module: Any) -> None:
    name, _ = module("add-a-metric.md")
    registry.load_plugins([name])
    values = compute_metrics(
        [[1, 1], [0, 1]], [[0.9, 0.9], [0.1, 0.9]], labels=["a", "b"], task="multilabel", thresholds_L=[0.5, 0.5]
    )
    assert [(v.label, v.value) for v in values if v.metric == "g_mean"] == [("a", 1.0), ("mean", 1.0)]
    registry.METRICS.register("recall")(lambda true_N, prob_N, positive_N: 1.0)
    try:
        with pytest.raises(UserError, match="registers the metric 'recall': give it a name of its own"):
            compute_metrics([[1]], [[0.9]], labels=["a"], task="binary", thresholds_L=[0.5])
    finally:
        registry.METRICS.unregister("recall")
