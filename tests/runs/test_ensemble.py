"""Ensembles of small trained runs: averages, out-of-fold val, the plan, and which runs cannot be combined."""

import json
import shutil
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
from cxr_ray.evaluation import compare, rescore
from cxr_ray.inference import predictor
from cxr_ray.on_ray import train as on_ray
from cxr_ray.runs import ensemble
from cxr_ray.training import setup
from cxr_ray.workflows import evaluations
from tests.fakes.store import fake_store

LABELS = ("Edema", "Mass")


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.Store:
    fake = fake_store(120, labels=LABELS, size=(28, 28), images_a_patient=3)
    table = fake.index.drop(columns=["mean", "variance"])
    folder = tmp_path_factory.mktemp("ensembles") / "shards"
    return store_writer.write(folder, fake.pixels, table, DatasetInfo(labels=LABELS, task="multilabel"), source="fake")


def train(store: stores.Store, folder: Path, name: str, **settings: Any) -> runs.Run:
    body = {
        "output": str(folder), "name": name, "data": {"shards": str(store.path), "split": {"test": 0.25, **settings.pop("split", {})}},
        "model": {"name": "lenet"}, "optim": {"lr": 2e-3}, "train": {"epochs": 1, "batch_size": 16, "precision": "fp32"},
        "report": {"bootstrap": 20, "trackers": []}, **settings,
    }  # fmt: skip
    return on_ray.train(cfg.validate(body), log=quiet)


@pytest.fixture(scope="module")
def folds(store: stores.Store) -> list[runs.Run]:
    folder = store.path.parent / "runs"
    weighted = {"loss": {"pos_weight_power": 1.0}}
    return [train(store, folder, f"fold-{k}", split={"folds": 3, "fold": k}, **weighted) for k in range(3)]


@pytest.fixture(scope="module")
def seeds(store: stores.Store) -> list[runs.Run]:
    return [train(store, store.path.parent / "runs", f"seed-{k}", split={"val": 0.25}, seed=k) for k in range(2)]


def rows_of(run: runs.Run, part: str) -> set[int]:
    return set(run.plan.loc[run.plan["part"] == part, "row"].tolist())


def test_an_ensemble_gives_the_mean_of_its_members(store: stores.Store, folds: list[runs.Run]) -> None:
    run = ensemble.make(folds[0].path.parent / "three", folds)
    images = store.images(store.index["row"].to_numpy()[:9])
    each = [predictor.load(member)(images).astype(np.float64) for member in folds]
    actual = predictor.load(run.path)(images)
    assert actual.dtype == np.float32 and np.allclose(actual, sum(each) / 3, atol=1e-7)
    assert not np.allclose(each[0], each[1], atol=1e-3)  # otherwise their mean would prove nothing
    assert run.architecture == "ensemble of 3 lenet" and run.info["members"] == ["../fold-0", "../fold-1", "../fold-2"]


def test_its_parts_are_the_union_of_its_members_parts(folds: list[runs.Run]) -> None:
    run = ensemble.make(folds[0].path.parent / "three", folds)
    assert rows_of(run, "test") == rows_of(folds[0], "test") and len(rows_of(run, "test"))
    assert rows_of(run, "train") == set.union(*(rows_of(member, "train") for member in folds))
    assert rows_of(run, "val") == set.union(*(rows_of(member, "val") for member in folds)) == rows_of(run, "train")
    counts = run.info["prevalence"]
    assert counts["test"]["rows"] == len(rows_of(run, "test")) and counts["train"]["labels"]["Edema"]["positives"] > 0


def test_a_val_row_is_predicted_only_by_members_that_had_it_in_val(
    folds: list[runs.Run], seeds: list[runs.Run]
) -> None:
    """Folds and seeds together: a row is in val of one fold, and of both seeds or of none."""
    table = ensemble.out_of_fold([*folds, *seeds])
    assert table["row"].is_monotonic_increasing and not table["row"].duplicated().any()
    val = {member.path.name: member.predictions("val").set_index("row") for member in [*folds, *seeds]}
    counts = set()
    for _, line in table.iterrows():
        rows = [frame.loc[line["row"]] for frame in val.values() if line["row"] in frame.index]
        counts.add(len(rows))
        for label in LABELS:
            assert line[f"prob/{label}"] == pytest.approx(np.mean([r[f"prob/{label}"] for r in rows]), abs=1e-6)
            assert line[f"true/{label}"] == rows[0][f"true/{label}"]
        assert line["patient"] == rows[0]["patient"]
    assert counts == {1, 3}


def test_thresholds_are_chosen_out_of_fold_and_an_ensemble_works_like_a_run(
    store: stores.Store, folds: list[runs.Run]
) -> None:
    run = ensemble.make(folds[0].path.parent / "evaluated", folds)
    evaluation = evaluations.evaluate(run.path, thresholds={"recall": 0.8}, log=quiet)
    val = ensemble.out_of_fold(folds)
    saved = json.loads((run.path / "thresholds.json").read_text())
    assert saved["chosen_on"]["rows"] == len(val)
    for label in LABELS:
        positives = val.loc[val[f"true/{label}"] == 1, f"prob/{label}"]
        at = np.float32(saved["labels"][label]["threshold"])
        assert (positives >= at).mean() == pytest.approx(saved["labels"][label]["recall"])
    test = run.predictions("test")
    each = [predictor.load(member).rows(store, test["row"].to_numpy())[:, 1] for member in folds]
    assert np.allclose(test["prob/Mass"], np.mean(each, axis=0), atol=1e-6)
    assert evaluation.results["rows"] == len(test)
    assert evaluation.results["calibration"]["shift"] == {}  # each member has weights from its own rows
    page = evaluation.report.read_text()
    assert "ensemble of 3 lenet" in page and "trained on by some members" in page and "Prevalence by part" in page
    assert rescore.rescore(run, "val", thresholds=0.3).values and len(rescore.progress(run)) == 0
    comparison = compare.compare([folds[0], run], split="val", thresholds=0.5, resamples=20)
    assert comparison["seeds"] is None
    assert comparison["config"][0]["differs"][-1] == "model: lenet -> ensemble of 3 lenet"


def test_val_of_folds_is_never_predicted_by_a_member_that_was_trained_on_it(folds: list[runs.Run]) -> None:
    """A lost table is combined again instead of predicted by all members. There are no baselines: they would be fitted on val rows."""
    run = ensemble.make(folds[0].path.parent / "lost", folds)
    (run.path / "predictions" / "val.parquet").unlink()
    evaluation = evaluations.evaluate(run.path, split="val", thresholds=0.5, log=quiet)
    pd.testing.assert_frame_equal(run.predictions("val"), ensemble.out_of_fold(folds))
    assert evaluation.results["rivals"] == {}


def test_seeds_of_one_split_have_their_val_and_baselines(seeds: list[runs.Run], tmp_path: Path) -> None:
    run = ensemble.make(tmp_path / "both", seeds)
    assert rows_of(run, "val") == rows_of(seeds[0], "val") and not rows_of(run, "val") & rows_of(run, "train")
    assert run.info["members"] == [str(seed.path) for seed in seeds]  # in another folder: absolute
    evaluation = evaluations.evaluate(run.path, split="val", thresholds=0.5, log=quiet)
    assert set(evaluation.results["rivals"]) == {"thumbnail", "border"}
    assert not any("trained on by some members" in line for line in run.info["warnings"])


def test_a_folder_of_runs_can_be_moved(folds: list[runs.Run], tmp_path: Path) -> None:
    run = ensemble.make(folds[0].path.parent / "moving", folds)
    shutil.copytree(run.path.parent, tmp_path / "elsewhere")
    moved = runs.load(tmp_path / "elsewhere" / "moving")
    assert [m.path for m in moved.members] == [tmp_path / "elsewhere" / f"fold-{k}" for k in range(3)]
    shutil.rmtree(tmp_path / "elsewhere" / "fold-1")
    with pytest.raises(UserError, match=r"a member of the ensemble moving is missing: .*fold-1 is not a run folder"):
        predictor.load(moved)
    assert moved.architecture == "ensemble of 3"  # `cxr-ray runs` still lists it


def test_making_it_twice_changes_nothing_and_a_used_folder_is_refused(folds: list[runs.Run]) -> None:
    run = ensemble.make(folds[0].path.parent / "again", folds)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    assert ensemble.make(run.path, folds).path == run.path
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before
    for place in (run.path, folds[2].path):
        with pytest.raises(UserError, match="is already a run; give the ensemble another name"):
            ensemble.make(place, folds[:2])


def test_runs_that_cannot_be_one_ensemble_are_refused(
    folds: list[runs.Run], seeds: list[runs.Run], store: stores.Store, tmp_path: Path
) -> None:
    first = folds[0]
    with pytest.raises(UserError, match="an ensemble needs two runs or more"):
        ensemble.make(tmp_path / "x", [first])
    with pytest.raises(UserError, match="a run is given twice"):
        ensemble.make(tmp_path / "x", [first, first.path])
    with pytest.raises(UserError, match="pair is an ensemble itself"):
        ensemble.make(tmp_path / "x", [first, ensemble.make(first.path.parent / "pair", folds[:2])])
    for settings, message in [
        ({"data": {"shards": str(store.path), "labels": ["Edema"], "split": {"test": 0.25}}}, r"their labels differ \(\['Edema'\] and \['Edema', 'Mass'\]\)"),
        ({"data": {"shards": str(store.path), "eval_uncertain": "zeros", "split": {"test": 0.25}}}, "their label policy of evaluation differs"),
        ({"data": {"shards": str(store.path), "split": {"test": 0.25, "seed": 1}}}, "their test rows differ$"),
    ]:  # fmt: skip
        other = other_of(first, tmp_path / message[:12].replace(" ", "-"), store, **settings)
        with pytest.raises(UserError, match=f"{other.path.name} and fold-0 cannot be one ensemble: {message}"):
            ensemble.make(tmp_path / "x", [first, other])
    untrained = other_of(first, tmp_path / "untrained", store)
    untrained.weights.unlink()
    with pytest.raises(UserError, match="untrained has no model yet"):
        ensemble.make(tmp_path / "x", [first, untrained])
    assert not (tmp_path / "x").exists()


def test_a_member_that_has_changed_is_an_error(folds: list[runs.Run], store: stores.Store, tmp_path: Path) -> None:
    shutil.copytree(folds[0].path, tmp_path / "a")
    shutil.copytree(folds[1].path, tmp_path / "b")
    run = ensemble.make(tmp_path / "both", [tmp_path / "a", tmp_path / "b"])
    one = train(store, tmp_path, "one", data={"shards": str(store.path), "labels": ["Edema"]})
    shutil.copy(one.weights, tmp_path / "b" / "model.safetensors")
    with pytest.raises(UserError, match="ensemble both is of multilabel Edema, Mass, and its member b of binary Edema"):
        predictor.load(run)


def other_of(run: runs.Run, path: Path, store: stores.Store, **settings: object) -> runs.Run:
    """A run folder with other settings and the weights of `run`, without a training."""
    config = cfg.validate(
        {**run.config.model_dump(mode="json"), "name": path.name, "output": str(path.parent), **settings}
    )
    _, plan, config = setup.prepare(config)
    about = {"labels": list(plan.labels), "task": plan.task, "groups": plan.groups}
    other = runs.create(config, store=run.info["store"], plan=plan.table(), about=about)
    shutil.copy(run.weights, other.weights)
    return other
