"""A small model trained in this process and judged: rules, studies, groups, thresholds.json, and data it has not seen."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.cli.commands.evaluate import read_mapping
from cxr_ray.data import store as stores
from cxr_ray.data import store_writer
from cxr_ray.errors import UserError
from cxr_ray.metrics import compute_metrics, operating_points, studies
from cxr_ray.on_ray import train as on_ray
from cxr_ray.workflows import evaluate, external
from cxr_ray.workflows.external import align, seen
from tests.fakes.store import fake_store

LABELS = ("Edema", "Mass", "Tubes")


def written(
    folder: Path, *, seed: int, rows: int = 160, first_patient: int = 0, names: tuple[str, ...] = LABELS
) -> stores.Store:
    """A store on disk of the fake's pictures; two images a study, `Tubes` kept out of training by the source."""
    fake = fake_store(rows, labels=LABELS, size=(32, 32), seed=seed)
    table = fake.index.drop(columns=["mean", "variance"])
    table["patient"] = [f"p{first_patient + i // 4}" for i in range(rows)]
    table["study"] = [f"p{first_patient + i // 4}/s{i // 2}" for i in range(rows)]
    table["age"] = np.random.default_rng(seed).integers(20, 90, rows).astype(float)
    table["row"] = np.arange(rows) + 7
    table = table.rename(columns=dict(zip(LABELS, names, strict=True)))
    return store_writer.write(
        folder, fake.pixels, table, labels=list(names), task="multilabel", source="fake", shard_rows=50,
        groups={"pair": names[:2]}, default_labels=names[:2], features=["view", "sex"], notes=["made up"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    folder = tmp_path_factory.mktemp("judged")
    store = written(folder / "shards", seed=0)
    config = cfg.validate(
        {
            "output": str(folder / "runs"), "name": "one", "data": {"shards": str(store.path), "split": {"val": 0.25, "test": 0.3}},
            "model": {"name": "lenet"}, "optim": {"lr": 2e-3}, "loss": {"pos_weight_power": 1.0},
            "train": {"epochs": 2, "batch_size": 16, "precision": "fp32"},
            "report": {"bootstrap": 60, "keep_predictions": True, "thresholds": "youden"},
        }
    )  # fmt: skip
    return on_ray.train(config, log=lambda line: None)


def quiet(line: str) -> None:
    pass


def test_a_rule_is_chosen_on_val_applied_to_test_and_written_down(run: runs.Run) -> None:
    judged = evaluate.evaluate(run.path, thresholds={"recall": 0.8}, log=quiet)
    val, test = run.predictions("val"), run.predictions("test")
    told = json.loads((run.path / "thresholds.json").read_text())
    assert told["given"] == {"recall": 0.8} and told["assurance"] == 0.95
    assert told["chosen_on"]["part"] == "val" and told["chosen_on"]["rows"] == len(val)
    assert told["chosen_on"]["patients"] == val["patient"].nunique()
    for label in ("Edema", "Mass"):
        point, at = told["labels"][label], told["labels"][label]["threshold"]
        positives = val.loc[val[f"true/{label}"] == 1, f"prob/{label}"]
        assert (positives >= np.float32(at)).mean() == pytest.approx(point["recall"]) and point["recall"] >= 0.8
        recall = next(v for v in judged.found["values"] if (v["metric"], v["label"]) == ("recall", label))
        on_test = test.loc[test[f"true/{label}"] == 1, f"prob/{label}"]
        assert recall["value"] == pytest.approx((on_test >= np.float32(at)).mean())
    assert {r["recall"] for r in judged.found["at_recall"]} == {0.8, 0.9, 0.95}


def test_epochs_were_judged_at_thresholds_of_their_own_val(run: runs.Run) -> None:
    val = pd.read_parquet(run.path / "predictions" / "epochs" / "0002-val.parquet")
    held = run.metrics.query("epoch == 2 and part == 'val' and metric == 'recall' and label == 'Edema'")["value"].item()
    table = evaluate.evaluation(
        val, ["Edema", "Mass"], "multilabel", "youden", baselines={}, bootstrap=0, interval_by="image", seed=0, val=val
    )
    recall = next(v["value"] for v in table["values"] if (v["metric"], v["label"]) == ("recall", "Edema"))
    assert held == pytest.approx(recall, abs=1e-9)


def test_the_plan_judged_by_is_the_run_s_own(run: runs.Run) -> None:
    """Rows swapped between train and test in plan.parquet: the judging follows the file, not the split's code."""
    plan = run.plan
    moved = plan.copy()
    moved.loc[moved.index[moved["part"] == "test"][:2], "part"] = "train"
    moved.to_parquet(run.path / "plan.parquet")
    try:
        judged = evaluate.evaluate(run.path, log=quiet)
        assert judged.found["rows"] == int((plan["part"] == "test").sum()) - 2
    finally:
        plan.to_parquet(run.path / "plan.parquet")


def test_a_run_of_a_gpu_is_judged_without_one(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on a cluster's GPUs (train.gpu: true), judged on a machine that has none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = run.config
    on_gpu = config.model_copy(update={"train": config.train.model_copy(update={"gpu": True})})
    (run.path / "config.yaml").write_text(on_gpu.to_yaml())
    (run.path / "predictions" / "test.parquet").unlink(missing_ok=True)
    try:
        evaluate.evaluate(run.path, log=quiet)
    finally:
        (run.path / "config.yaml").write_text(config.to_yaml())
    assert len(run.predictions("test")) == (run.plan["part"] == "test").sum()


def test_by_study_is_the_judge_of_the_combined_table(run: runs.Run) -> None:
    judged = evaluate.evaluate(run.path, by="study", combine="mean", thresholds=0.4, log=quiet)
    table = studies.combine(run.predictions("test"), ["Edema", "Mass"], how="mean", task="multilabel")
    truth, prob = (table[[f"{k}/{name}" for name in ("Edema", "Mass")]].to_numpy() for k in ("true", "prob"))
    want = compute_metrics(truth, prob, labels=["Edema", "Mass"], task="multilabel", thresholds_L=[0.4, 0.4])
    got = {(v["metric"], v["label"]): v["value"] for v in judged.found["values"]}
    assert got == pytest.approx({(v.metric, v.label): v.value for v in want})
    assert judged.report.name == "report-by-study.html" and judged.found["rows"] == len(table) < len(
        run.predictions("test")
    )
    assert set(judged.found["rivals"]) == {"thumbnail", "border"}


def test_groups_and_the_weights_shift_are_found(run: runs.Run) -> None:
    missing_most = evaluate.evaluate(run.path, thresholds=0.999, log=quiet)  # so that there are errors to show
    assert "data:image/jpeg;base64," in missing_most.report.read_text()
    found = evaluate.evaluate(run.path, log=quiet).found
    assert {g["feature"] for g in found["groups"]} >= {"sex", "view", "age", "Tubes"}
    assert all(s > 0 for s in found["calibration"]["shift"].values())  # positives are the rarer side and weighed up
    methods = found["calibration"]["methods"]
    assert methods["weights taken out"]["ece"]["Mass"] != methods["as trained"]["ece"]["Mass"]
    page = (run.path / "report.html").read_text()
    assert "Weights and draws taken out" in page and "with Tubes" in page
    assert "Share of positives in each part" in page  # which the training wrote down
    held = run.info["prevalence"]["train"]
    assert held["rows"] == (run.plan["part"] == "train").sum() and held["patients"] == held["rows"] // 4
    assert (run.path / "figures" / "roc-Edema.png").read_bytes().startswith(b"\x89PNG")
    assert not any(f"p{k}/s" in page for k in range(40))  # no patient and no study is named


def test_how_intervals_are_made_can_be_chosen_anew(run: runs.Run) -> None:
    mine = evaluate.evaluate(run.path, log=quiet).found["interval"]
    assert (mine["by"], mine["resamples"], mine["method"]) == ("patient", 60, "percentile")
    other = evaluate.evaluate(
        run.path, report={"interval_by": "image", "bootstrap": 20, "interval": "bca"}, log=quiet
    ).found
    assert (other["interval"]["by"], other["interval"]["resamples"], other["interval"]["method"]) == (
        "image",
        20,
        "bca",
    )
    assert {v["method"] for v in other["values"] if "low" in v} >= {"bca"}
    assert other["interval"]["groups"] == other["rows"] > mine["groups"]
    none = evaluate.evaluate(run.path, split="train", report={"bootstrap": 0, "rivals": False}, log=quiet)
    assert not any("low" in v for v in none.found["values"]) and none.found["rivals"] == {}
    assert any(g["gaps"] for g in none.found["groups"]) and "Largest gap" in none.report.read_text()
    with pytest.raises(UserError, match=r"report\.interval_by"):
        evaluate.evaluate(run.path, report={"interval_by": "study"}, log=quiet)


# Other data.


def test_other_data_are_matched_by_name_and_judged_as_they_are(run: runs.Run, tmp_path: Path) -> None:
    other = written(tmp_path / "other", seed=5, rows=60, first_patient=900, names=("edema", "Nodule", "Tubes"))
    said: list[str] = []
    judged = external.evaluate(run.path, other.path, mapping={"Mass": "Nodule"}, thresholds=0.5, log=said.append)
    assert judged.found["rows"] == 60 and judged.found["external"]["unmatched"] == ["Tubes"]
    assert [a["how"] for a in judged.found["external"]["alignment"]] == ["same letters", "given"]
    assert any("'Nodule' of the data (given)" in line for line in said)
    assert any("no row was seen in training" in line for line in said)
    (file,) = (run.path / "predictions" / "external").glob("other-*.parquet")
    table = pd.read_parquet(file)
    assert table["true/Mass"].tolist() == other.index["Nodule"].tolist()
    recall = next(v for v in judged.found["values"] if (v["metric"], v["label"]) == ("recall", "Mass"))
    true, said_ = table["true/Mass"] == 1, table["prob/Mass"] >= 0.5
    assert recall["value"] == pytest.approx((true & said_).sum() / true.sum())
    page = judged.report.read_text()
    assert "Judged on other data" in page and judged.report.parent.name == "other"
    without = external.evaluate(run.path, other.path, thresholds=0.5, log=quiet)
    undefined = {(u["metric"], u["label"]): u["reason"] for u in without.found["undefined"]}
    assert undefined["auroc", "Mass"] == "the truth of no row is known"


def test_pictures_and_patients_that_were_trained_on_are_left_out_and_said(run: runs.Run, tmp_path: Path) -> None:
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
    other = store_writer.write(tmp_path / "leaky", pixels, table, labels=list(LABELS), task="multilabel", source="fake")
    said: list[str] = []
    judged = external.evaluate(run.path, other.path, thresholds=0.5, log=said.append)
    leak = next(line for line in said if line.startswith("LEAK"))
    assert leak.startswith("LEAK: 10 rows") and "8 the same pixels" in leak and "2 a patient trained on" in leak
    assert judged.found["rows"] == 18 and leak in judged.found["external"]["notes"]


def test_near_copies_are_found_by_their_looks() -> None:
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

    found = seen(index(other), index(known), same_source=False)["a copy by its looks"]
    slow = [min(int(a ^ b).bit_count() for b in known.tolist()) <= 2 for a in other.tolist()]
    assert found.tolist() == slow and found[:90].all() and not found[90:].any()


@pytest.mark.parametrize(
    ("mapping", "said"),
    [({"Edma": "Nodule"}, "did you mean 'Edema'"), ({"Edema": "Nodul"}, "did you mean 'Nodule'")],
)
def test_a_mapping_that_names_nothing_is_one_line(mapping: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        align(["Edema"], ["Nodule"], mapping)
    with pytest.raises(UserError, match="MODEL=DATA"):
        read_mapping(["Edema"])


def test_data_without_a_label_in_common_are_refused(run: runs.Run, tmp_path: Path) -> None:
    other = written(tmp_path / "none", seed=6, rows=20, names=("x", "y", "z"))
    with pytest.raises(UserError, match="no label of the run"):
        external.evaluate(run.path, other.path, log=quiet)


def test_a_run_without_val_takes_numbers_alone(run: runs.Run) -> None:
    table = run.predictions("test")
    with pytest.raises(UserError, match="this run has no val rows"):
        evaluate.evaluation(
            table,
            ["Edema", "Mass"],
            "multilabel",
            "f1",
            baselines={},
            bootstrap=0,
            interval_by="patient",
            seed=0,
            val=None,
        )
    assert operating_points.words("youden").startswith("the largest recall")
