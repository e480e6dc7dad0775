"""External validation of a run of classes on data with some of them, against a slow restatement."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.errors import UserError
from cxr_ray.inference.loading import load_predictor
from cxr_ray.on_ray import train as on_ray
from cxr_ray.workflows import evaluations, shared_classes
from tests.fakes.store import fake_store

CLASSES = ("COVID", "Normal", "Pneumonia")


def write(folder: Path, info: DatasetInfo, truth: dict[str, Any], *, seed: int, prefix: str) -> stores.Store:
    """A store of images in bands with the label columns `truth`, which says nothing of the pixels."""
    rows = len(next(iter(truth.values())))
    fake = fake_store(rows, labels=CLASSES, task="multiclass", size=(32, 32), seed=seed)
    table = fake.index.drop(columns=["mean", "variance", *CLASSES]).assign(
        patient=[f"{prefix}{i // 2}" for i in range(rows)]
    )
    return store_writer.write(folder, fake.pixels, table.assign(**truth), info, source=prefix, shard_rows=40)


def one_hot(rows: int, classes: tuple[str, ...], seed: int) -> dict[str, Any]:
    drawn = np.random.default_rng(seed).integers(0, len(classes), rows)
    return {name: (drawn == i).astype(np.float32) for i, name in enumerate(classes)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    folder = tmp_path_factory.mktemp("classes")
    fake = fake_store(90, labels=CLASSES, task="multiclass", size=(32, 32), seed=0)
    table = fake.index.drop(columns=["mean", "variance"])
    store = store_writer.write(folder / "shards", fake.pixels, table, fake.info, source="own", shard_rows=40)
    config = cfg.validate(
        {
            "output": str(folder / "runs"), "name": "one", "data": {"shards": str(store.path), "split": {"val": 0.3, "test": 0.2}},
            "model": {"name": "lenet"}, "train": {"epochs": 1, "precision": "fp32"}, "report": {"bootstrap": 0, "trackers": []},
        }
    )  # fmt: skip
    return on_ray.train(config, log=lambda line: None)


def restated(run: runs.Run, store: stores.Store, class_N: list[str], kept: tuple[str, ...]) -> dict[str, float]:
    """Metrics of the rows whose class is one of `kept`, one row at a time."""
    predictor = load_predictor(run, gpu=False)
    pairs = []
    for row, name in zip(store.index["row"], class_N, strict=True):
        if name in kept:
            prob = dict(zip(CLASSES, predictor.rows(store, np.array([row]))[0].tolist(), strict=True))
            total = sum(prob[k] for k in kept)
            pairs.append((name, {k: prob[k] / total for k in kept}))
    decided = [(name, max(kept, key=prob.__getitem__)) for name, prob in pairs]
    out = {"rows": len(pairs), "accuracy": float(np.mean([a == b for a, b in decided]))}
    for k in kept:
        positive, negative = ([p[k] for name, p in pairs if (name == k) is want] for want in (True, False))
        out[f"recall/{k}"] = sum(a == b == k for a, b in decided) / len(positive)
        wins = [(a > b) + 0.5 * (a == b) for a in positive for b in negative]
        out[f"auroc/{k}"] = float(np.mean(wins))
    return out


def values(evaluation: Any) -> dict[str, float]:
    found = {"rows": evaluation.results["rows"]}
    for v in evaluation.results["values"]:
        found["/".join(k for k in (v["metric"], v["label"]) if k)] = v["value"]
    return found


def test_the_decision_is_among_the_classes_that_both_have(run: runs.Run, tmp_path: Path) -> None:
    theirs = ("covid", "Pneumonia", "TB")
    truth = one_hot(60, theirs, 1)
    store = write(tmp_path / "three", DatasetInfo(labels=theirs, task="multiclass"), truth, seed=5, prefix="x")
    names = {"covid": "COVID"}
    class_N = [names.get(str(c), str(c)) for c in pd.DataFrame(truth)[list(theirs)].idxmax(axis=1)]
    log: list[str] = []
    evaluation = evaluations.evaluate(run, data=store.path, log=log.append)
    assert evaluation.results["labels"] == ["COVID", "Pneumonia"]
    found, expected = values(evaluation), restated(run, store, class_N, ("COVID", "Pneumonia"))
    assert {k: found.get(k) for k in expected} == pytest.approx(expected, abs=1e-5)
    assert not any("Normal" in key for key in found)
    assert f"rows of classes that the model does not know are left out: {class_N.count('TB')} of TB" in log
    assert any("divided by their sum over COVID, Pneumonia" in line and "without Normal" in line for line in log)
    prob = evaluation.predictions[["prob/COVID", "prob/Pneumonia"]].sum(axis=1)
    assert np.allclose(prob, 1.0) and "prob/Normal" not in evaluation.predictions
    page = evaluation.report.read_text(encoding="utf-8")
    assert "divided by their sum" in page and "TB" in page
    by_study = evaluations.evaluate(run, data=store.path, thresholds={"recall": 0.8}, log=log.append)
    assert {r["label"] for r in by_study.results["at_recall"]} <= {"COVID", "Pneumonia"}


@pytest.mark.parametrize("other_class", ["Pneumonia", None])
def test_a_store_of_two_classes_has_both(run: runs.Run, tmp_path: Path, other_class: str | None) -> None:
    truth = {"COVID": np.random.default_rng(3).integers(0, 2, 50).astype(np.float32)}
    info = DatasetInfo(labels=("COVID",), task="binary", other_class=other_class)
    store = write(tmp_path / "two", info, truth, seed=6, prefix="y")
    second = other_class or "Normal"  # without a name: the class that means no finding
    class_N = ["COVID" if value else second for value in truth["COVID"]]
    evaluation = evaluations.evaluate(run, data=store.path, log=lambda line: None)
    expected = restated(run, store, class_N, tuple(sorted(("COVID", second))))
    assert evaluation.results["labels"] == sorted(("COVID", second))
    assert {k: values(evaluation).get(k) for k in expected} == pytest.approx(expected, abs=1e-5)
    assert expected["rows"] == 50


def test_one_common_class_decides_nothing(run: runs.Run, tmp_path: Path) -> None:
    truth = one_hot(20, ("COVID", "TB", "Other"), 4)
    info = DatasetInfo(labels=("COVID", "TB", "Other"), task="multiclass")
    store = write(tmp_path / "one", info, truth, seed=7, prefix="z")
    with pytest.raises(
        UserError,
        match=r"have COVID in common; a decision needs two: match more, for example with --mapping Normal=(TB|Other)$",
    ):
        evaluations.evaluate(run, data=store.path, log=lambda line: None)
    mapped = evaluations.evaluate(run, data=store.path, mapping={"Pneumonia": "TB"}, log=lambda line: None)
    assert mapped.results["labels"] == ["COVID", "Pneumonia"]


def test_probabilities_without_any_of_the_classes_are_even() -> None:
    table = pd.DataFrame({"row": [1, 2], "true/a": [1.0, 0.0], "true/b": [0.0, 1.0], "true/c": [0.0, 0.0],
                          "prob/a": [0.0, 0.3], "prob/b": [0.0, 0.3], "prob/c": [1.0, 0.4]})  # fmt: skip
    found = shared_classes.restrict(table, ("a", "b", "c"), ("a", "b"))
    assert found[["prob/a", "prob/b"]].to_numpy().tolist() == [[0.5, 0.5], [0.5, 0.5]]
