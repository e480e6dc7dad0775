"""External validation of a small model: matched labels, and rows that the training used."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.errors import UserError
from cxr_ray.workflows import evaluations
from cxr_ray.workflows.external import used_in_training
from tests.fakes.store import fake_store
from tests.fakes.study_store import LABELS, write_store


def quiet(line: str) -> None:
    pass


def test_labels_of_external_data_are_matched_by_name_or_mapping(run: runs.Run, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", seed=5, rows=60, first_patient=900, names=("edema", "Nodule", "Tubes"))
    log: list[str] = []
    evaluation = evaluations.evaluate(run, data=other.path, mapping={"Mass": "Nodule"}, thresholds=0.5, log=log.append)
    assert evaluation.results["rows"] == 60 and evaluation.results["external"]["unmatched"] == ["Tubes"]
    assert [a["how"] for a in evaluation.results["external"]["alignment"]] == ["same letters", "given"]
    assert any("Mass is evaluated on 'Nodule' of the data (given)" in line for line in log)
    assert any("no row was used in train or val" in line for line in log)
    (file,) = (run.path / "predictions" / "external").glob("other-*.parquet")
    table = pd.read_parquet(file)
    assert table["true/Mass"].tolist() == other.index["Nodule"].tolist()
    recall = next(v for v in evaluation.results["values"] if (v["metric"], v["label"]) == ("recall", "Mass"))
    true, predicted = table["true/Mass"] == 1, table["prob/Mass"] >= 0.5
    assert recall["value"] == pytest.approx((true & predicted).sum() / true.sum())
    page = evaluation.report.read_text()
    assert "Evaluated on external data" in page and evaluation.report.parent.name == "other"
    without = evaluations.evaluate(run, data=other.path, thresholds=0.5, log=quiet)
    undefined = {(u["metric"], u["label"]): u["reason"] for u in without.results["undefined"]}
    assert undefined["auroc", "Mass"] == "no row has a known label"


def test_images_and_patients_of_the_training_are_left_out(run: runs.Run, tmp_path: Path) -> None:
    own = stores.open(run.info["store"]["path"])
    chosen = own.index[own.index["row"].isin(run.plan.loc[run.plan["part"] == "train", "row"])].head(8)
    fresh = fake_store(20, labels=LABELS, size=(32, 32), seed=77)
    pixels = np.concatenate([own.images(chosen["row"].to_numpy()), fresh.pixels])
    table = pd.concat(
        [chosen[["study", "view", "sex", *LABELS]].assign(patient=[f"new{i}" for i in range(8)]),
         fresh.index[["study", "view", "sex", *LABELS]].assign(patient=["p0"] * 2 + [f"n{i}" for i in range(18)])]
    ).assign(row=np.arange(28), source_row=np.arange(28))  # fmt: skip
    in_train = run.plan.merge(own.index[["row", "patient"]]).query("part != 'test'")["patient"]
    table.loc[table["patient"] == "p0", "patient"] = in_train.iloc[0]
    other = store_writer.write(
        tmp_path / "leaky", pixels, table, DatasetInfo(labels=LABELS, task="multilabel"), source="fake"
    )
    log: list[str] = []
    evaluation = evaluations.evaluate(run, data=other.path, thresholds=0.5, log=log.append)
    leak = next(line for line in log if line.startswith("LEAK"))
    assert leak.startswith("LEAK: 10 rows") and "8 the same pixels" in leak and "2 a patient of the training" in leak
    assert evaluation.results["rows"] == 18 and leak in evaluation.results["external"]["notes"]


def test_near_copies_are_found_by_their_perceptual_hash() -> None:
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**63, 300, dtype=np.uint64)
    other = np.r_[
        known[:50] ^ np.uint64(1 << 40),
        known[50:90] ^ np.uint64((1 << 3) | (1 << 60)),
        known[90:99] ^ np.uint64(0b10101),
    ]

    def index(phash: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame({"phash": phash, "file_sha256": "", "pixels_sha256": "", "patient": None}).assign(
            file_sha256=lambda t: [f"{len(phash)}-{i}" for i in range(len(t))], pixels_sha256=lambda t: t["file_sha256"]
        )

    near = used_in_training(index(other), index(known), same_source=False)["a near copy"]
    slow = [min(int(a ^ b).bit_count() for b in known.tolist()) <= 2 for a in other.tolist()]
    assert near.tolist() == slow and near[:90].all() and not near[90:].any()


def test_data_without_a_common_label_are_refused(run: runs.Run, tmp_path: Path) -> None:
    other = write_store(tmp_path / "none", seed=6, rows=20, names=("x", "y", "z"))
    with pytest.raises(UserError, match=r"no label of the run .*--mapping \S+=x$"):
        evaluations.evaluate(run, data=other.path, log=quiet)
