"""Labels of a run in another store: names, mappings, derived labels, graphs of findings; and a run with a derived label."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import config as cfg
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.store import Store
from cxr_ray.errors import UserError
from cxr_ray.on_ray import train as on_ray
from cxr_ray.workflows import evaluations
from cxr_ray.workflows.alignment import (
    Derivation,
    align,
    blank_of,
    derivations,
    mapping_hint,
    stored_labels,
    truth_of,
    used_labels,
)
from tests.fakes.store import fake_store
from tests.fakes.study_store import write_store

NAN = np.nan
DERIVED = {"Fracture": Derivation("any", ("Rib", "Clavicle")), "Bone": Derivation("all", ("Fracture", "Mass"))}


def columns(**values: list[float]) -> dict[str, np.ndarray]:
    return {name: np.array(column, np.float32) for name, column in values.items()}


def test_a_derived_label_is_made_of_the_members_that_the_data_have() -> None:
    theirs = ["rib", "Clavicle", "mass"]
    alignment = align(["Fracture", "Edema", "Mass"], theirs, {}, DERIVED)
    assert alignment == [
        {"label": "Fracture", "data": "rib + Clavicle", "how": "any of them"},
        {"label": "Edema", "data": None, "how": "the data lack it"},
        {"label": "Mass", "data": "mass", "how": "same letters"},
    ]
    assert used_labels(alignment, theirs, {}, DERIVED) == {"rib", "Clavicle", "mass"}
    assert align(["Fracture"], ["fracture", "rib"], {}, DERIVED)[0]["data"] == "fracture"  # its own name first
    assert align(["Fracture"], ["broken rib"], {"Rib": "broken rib"}, DERIVED)[0]["data"] == "broken rib"
    assert align(["Fracture"], ["Edema"], {}, DERIVED)[0]["data"] is None
    assert align(["Bone"], ["rib", "Mass"], {}, DERIVED)[0] == {
        "label": "Bone",
        "data": "rib + Mass",
        "how": "all of them",
    }
    with pytest.raises(UserError, match=r"unknown label 'Ribs' of the model in the mapping; did you mean 'Rib'\?"):
        align(["Fracture"], theirs, {"Ribs": "rib"}, DERIVED)


@pytest.mark.parametrize(
    ("ours", "theirs", "hint"),
    [
        (["COVID", "Normal"], ["normal", "covid-19"], "--mapping COVID=covid-19"),  # one near match suffices
        (["Pleural effusion", "Edema"], ["Effusion", "Mass"], "--mapping 'Pleural effusion=Effusion'"),
        (["Cardiomegaly", "Mass"], ["Cardiomegalie", "Masse"], "--mapping Cardiomegaly=Cardiomegalie Mass=Masse"),
        (["COVID", "Pneumonia"], ["COVID", "TB"], "--mapping Pneumonia=TB"),  # none is near: an example
        (["COVID", "Pneumonia"], ["COVID"], "--mapping LABEL=LABEL"),
    ],
)
def test_the_hint_names_what_is_near(ours: list[str], theirs: list[str], hint: str) -> None:
    assert mapping_hint(align(ours, theirs, {}), theirs) == hint


@pytest.mark.parametrize(("blank", "expected"), [("zeros", [1, 0, NAN, 0]), ("ignore", [1, 0, NAN, NAN])])
def test_truth_of_a_derived_label(blank: str, expected: list[float]) -> None:
    theirs = columns(rib=[1, 0, 0, NAN], Clavicle=[0, 0, -1, 0])
    alignment = align(["Fracture"], list(theirs), {}, DERIVED)
    found = truth_of(theirs, alignment, {}, DERIVED, cfg.Data(), task="multilabel", blank=blank)
    np.testing.assert_array_equal(found[:, 0], np.array(expected, np.float32))


def test_a_member_that_the_data_lack_leaves_negatives_unknown() -> None:
    theirs = columns(rib=[1, 0, NAN])
    alignment = align(["Fracture"], list(theirs), {}, DERIVED)
    found = truth_of(theirs, alignment, {}, DERIVED, cfg.Data(), task="multilabel", blank="zeros")
    np.testing.assert_array_equal(found[:, 0], [1, NAN, NAN])


def test_classes_are_known_where_one_matched_label_is_positive() -> None:
    theirs = columns(A=[1, 0, 0, 1], B=[0, 1, 0, 1])
    alignment = align(["A", "B", "C"], list(theirs), {})
    found = truth_of(theirs, alignment, {}, {}, cfg.Data(), task="multiclass", blank="zeros")
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 1, 0], [NAN] * 3, [NAN] * 3])


def padchest_store(folder: Path) -> Store:
    """A store as it was written before kinds of a finding counted for it."""
    fake = fake_store(6, labels=("rib fracture", "tuberculosis", "tuberculosis sequelae"), size=(16, 16))
    table = fake.index.drop(columns=["mean", "variance"])
    table[["rib fracture", "tuberculosis", "tuberculosis sequelae"]] = np.array(
        [[1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0], [NAN] * 3, [1, 0, 1]], np.float32
    )
    info = DatasetInfo(labels=tuple(fake.labels), task="multilabel")
    return store_writer.write(folder, fake.pixels, table, info, source="padchest")


def test_the_graph_of_the_source_applies_to_older_stores_too(tmp_path: Path) -> None:
    store = padchest_store(tmp_path / "pad")
    found = stored_labels(store.index, store)
    np.testing.assert_array_equal(found["fracture"], [1, 0, 0, 0, NAN, 1])
    np.testing.assert_array_equal(found["tuberculosis"], [0, 1, NAN, 0, NAN, NAN])
    assert blank_of(store, cfg.Data()) == "ignore"
    alignment = align(["Fracture", "Tuberculosis"], list(found), {})
    truth = truth_of(found, alignment, {}, {}, cfg.Data(), task="multilabel", blank=blank_of(store, cfg.Data()))
    np.testing.assert_array_equal(truth[:, 0], [1, 0, 0, 0, NAN, 1])
    np.testing.assert_array_equal(truth[:, 1], [0, 1, NAN, 0, NAN, NAN])


def test_a_run_with_a_derived_label_is_trained_evaluated_and_aligned(tmp_path: Path) -> None:
    store = write_store(tmp_path / "shards", seed=0, rows=80)
    config = cfg.validate(
        {
            "output": str(tmp_path / "runs"), "name": "wet", "model": {"name": "lenet"},
            "data": {
                "shards": str(store.path), "split": {"val": 0.25, "test": 0.3}, "derive": {"Any": {"any": ["Edema", "Mass"]}},
                "labels": ["Any", "Edema"], "groups": {"mine": ["Any"]}, "uncertain": {"mine": "ones"},
            },
            "train": {"epochs": 1, "batch_size": 16, "precision": "fp32"},
            "report": {"bootstrap": 0, "trackers": [], "rivals": False, "labels": "mine", "images": False},
        }
    )  # fmt: skip
    run = on_ray.train(config, log=lambda line: None)
    assert run.info["labels"] == ["Edema", "Any"]
    evaluations.evaluate(run.path, log=lambda line: None)
    table, index = run.predictions("test"), store.index.set_index("row")
    expected = ((index["Edema"] == 1) | (index["Mass"] == 1)).loc[table["row"]]
    assert table["true/Any"].tolist() == expected.astype(float).tolist()
    assert derivations(store.info, run.config.data) == {"Any": Derivation("any", ("Edema", "Mass"))}
    other = write_store(tmp_path / "other", seed=5, rows=40, first_patient=900, names=("edema", "Nodule", "Tubes"))
    log: list[str] = []
    found = evaluations.evaluate(run, data=other.path, mapping={"Mass": "Nodule"}, log=log.append)
    assert "Any is evaluated on 'edema + Nodule' of the data (any of them)" in log
    assert found.results["external"]["unmatched"] == ["Tubes"]
    (file,) = (run.path / "predictions" / "external").glob("other-*.parquet")
    truth = pd.read_parquet(file)["true/Any"]
    assert truth.tolist() == ((other.index["edema"] == 1) | (other.index["Nodule"] == 1)).astype(float).tolist()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [({"Edma": "Nodule"}, "did you mean 'Edema'"), ({"Edema": "Nodul"}, "did you mean 'Nodule'")],
)
def test_a_mapping_with_an_unknown_label_is_an_error(mapping: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        align(["Edema"], ["Nodule"], mapping)
