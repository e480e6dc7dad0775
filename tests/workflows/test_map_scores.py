"""Scores of a run's maps against the boxes of its store."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cxr_ray
from cxr_ray.data import store_writer
from cxr_ray.errors import UserError
from cxr_ray.explanation.explainer import Explainer
from cxr_ray.workflows import map_scores
from tests.fakes.explained import quiet
from tests.fakes.store import fake_store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> cxr_ray.Run:
    """Boxes are the bands that show the labels."""
    folder, fake = tmp_path_factory.mktemp("scores"), fake_store(80)
    table = fake.index.drop(columns=["mean", "variance"])
    boxes = [
        {"row": row, "label": label, "x": 0.0, "y": at * 28 / 3, "w": 28.0, "h": 28 / 3}
        for at, label in enumerate(fake.labels)
        for row in fake.index.loc[fake.index[label] == 1, "row"]
    ]
    store_writer.write(folder / "shards", fake.pixels, table, fake.info, boxes=pd.DataFrame(boxes))
    settings = {"data.shards": folder / "shards", "model.name": "lenet", "train.epochs": 1, "report.trackers": []}
    return cxr_ray.train({**settings, "output": folder / "runs", "name": "a"}, log=quiet)


def explainer(run: cxr_ray.Run) -> Explainer:
    return Explainer(cxr_ray.load_predictor(run, gpu=False), ["saliency", "lrp_epsilon"])


def test_one_table_of_methods_and_scores_with_a_verdict(run: cxr_ray.Run) -> None:
    store = cxr_ray.open_store(run.info["store"]["path"])
    found = map_scores.score(explainer(run), store, "stored")
    assert list(found.wide.index) == ["location prior", "saliency", "lrp_epsilon"]
    assert {"hit", "iou_otsu", "auprc", "energy"} <= set(found.wide.columns)
    prior = found.table.set_index(["method", "label", "score"])["value"].xs("hit", level="score")
    assert prior["location prior"].eq(1.0).all()  # a band is always at the same place
    assert found.verdict.startswith(("Too few annotations", "Do not trust"))
    test = run.plan.loc[run.plan["part"] == "test", "row"]
    cases = int((store.index.loc[store.index["row"].isin(test), list(store.labels)] == 1).sum().sum())
    assert found.notes[0] == f"{cases} annotations of test; the location prior is from the training part."


def test_they_are_on_the_page_and_in_a_file(run: cxr_ray.Run, tmp_path: Path) -> None:
    found = cxr_ray.explain(
        run, methods="saliency", limit=2, boxes="stored", out=tmp_path / "out", log=quiet, gpu=False
    )
    page = (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
    assert "Scores against annotations" in page and "location prior" in page and found.verdict[:40] in page
    assert found.scores is not None and list(found.scores.index) == ["location prior", "saliency"]
    assert set(pd.read_csv(tmp_path / "out" / "scores.csv")["method"]) == {"location prior", "saliency"}


def test_mistakes(run: cxr_ray.Run) -> None:
    store = cxr_ray.open_store(run.info["store"]["path"])
    with pytest.raises(UserError, match="no annotations at"):
        map_scores.score(explainer(run), store, "nowhere.csv")
    with pytest.raises(UserError, match=r"unknown split 'tset'"):
        map_scores.score(explainer(run), store, "stored", split="tset")
    with pytest.raises(UserError, match="scores need the run's own store"):
        pictures = store.images(store.index["row"][:2])
        cxr_ray.explain(run, np.asarray(pictures), methods="saliency", boxes="stored", out="out", gpu=False)
