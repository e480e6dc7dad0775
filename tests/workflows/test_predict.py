"""predict: inputs of every kind give the probabilities of the predictor, in order; a killed one goes on; mistakes are one line."""

import json
import platform
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import cxr_ray
from cxr_ray import cli
from cxr_ray.data import store_writer
from cxr_ray.errors import UserError
from cxr_ray.inference import prediction_parts
from cxr_ray.metrics import calibration
from cxr_ray.runs import ensemble
from cxr_ray.storage import atomic
from tests.data.test_store_check import flip
from tests.fakes import archive, dicom
from tests.fakes.explained import quiet, store, trained
from tests.fakes.images import deep_png
from tests.fakes.store import fake_store

ROWS = list(range(3, 183, 3))
BAD = {
    "0/a_missing_end.png": "truncated",
    "0/empty.png": "empty file",
    "0/text.jpg": "not an image",
    "1/broken.dcm": "no pixels",
}


def predict(*args: Any, **options: Any) -> cxr_ray.Prediction:
    return cxr_ray.predict(*args, **{"log": quiet, "gpu": False, **options})


def add_bad_files(folder: Path) -> None:
    good = (folder / "0" / "00003.png").read_bytes()
    bodies = {"truncated": good[:-300], "empty file": b"", "not an image": b"a report", "no pixels": dicom.dicom(None)}
    for name, reason in BAD.items():
        (folder / name).write_bytes(bodies[reason])


# ---- what is predicted


def test_a_store_and_its_images_as_files_give_the_probabilities_of_the_predictor(tmp_path: Path) -> None:
    names = archive.files(tmp_path / "files")
    one = predict(trained(), store(), tmp_path / "one.parquet")
    other = predict(trained(), tmp_path / "files", tmp_path / "other.parquet", batch_size=7)
    assert one.table["row"].tolist() == ROWS and other.table["image"].tolist() == names
    for found in (one.table, other.table):
        np.testing.assert_allclose(archive.probabilities(found), archive.expected(ROWS), atol=1e-5)
        assert found["refused"].isna().all()
        decided = found.filter(regex="^decision/").to_numpy(bool)
        np.testing.assert_array_equal(decided, archive.probabilities(found) >= np.float32(0.5))
    assert (one.rows, one.refused) == (60, 0) and one.positives == {
        label: int(one.table[f"decision/{label}"].sum()) for label in trained().info["labels"]
    }
    assert not list(tmp_path.glob("*.parts"))


def test_every_kind_of_input(tmp_path: Path) -> None:
    names = archive.files(tmp_path / "files", 8)
    rows = ROWS[:8]
    table = pd.DataFrame({"path": [names[5], str(tmp_path / "files" / names[2])], "patient": ["p1", "p2"]})
    table.to_csv(tmp_path / "list.csv", index=False)
    found = predict(trained(), tmp_path / "list.csv", tmp_path / "t.csv", image="path", root=tmp_path / "files")
    assert found.table["image"].tolist() == [names[5], names[2]]  # no absolute path
    np.testing.assert_allclose(archive.probabilities(found.table), archive.expected([rows[5], rows[2]]), atol=1e-5)
    single = predict(trained(), tmp_path / "files" / names[3], tmp_path / "single.parquet")
    assert single.table["image"].tolist() == [Path(names[3]).name]
    np.testing.assert_allclose(archive.probabilities(single.table), archive.expected([rows[3]]), atol=1e-5)
    val = trained().plan.loc[lambda plan: plan["part"] == "val", "row"].tolist()
    part = predict(trained(), store(), tmp_path / "part.parquet", part="val")
    assert sorted(part.table["row"]) == sorted(val)
    saved = trained().predictions("val").set_index("row").loc[part.table["row"]]
    np.testing.assert_allclose(archive.probabilities(part.table), archive.probabilities(saved), atol=1e-5)


def test_dicoms_and_deep_pngs(tmp_path: Path) -> None:
    archive.dicoms(tmp_path / "dicoms", 4)
    predictor = cxr_ray.load_predictor(trained(), gpu=False)
    found = predict(trained(), tmp_path / "dicoms", tmp_path / "d.parquet").table
    assert found["image"].tolist() == [f"IM{at:03d}" for at in range(4)]
    each = [predictor([tmp_path / "dicoms" / name])[0] for name in found["image"]]
    np.testing.assert_allclose(archive.probabilities(found), each, atol=1e-5)
    deep = store().images(ROWS[:1])[0].astype(np.uint16) * 200 + 3000
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(deep_png(deep))
    found = predict(trained(), tmp_path / "deep", tmp_path / "p.parquet").table
    np.testing.assert_allclose(archive.probabilities(found), predictor([tmp_path / "deep" / "a.png"]), atol=1e-5)


def test_a_remote_folder_and_a_remote_table(s3: Any, tmp_path: Path) -> None:
    names = archive.files(tmp_path / "files", 12)
    pd.DataFrame({"image": [*names[:2], "0/gone.png"]}).to_csv(tmp_path / "files" / "list.csv", index=False)
    url = s3.upload(tmp_path / "files", "predict/files")
    found = predict(trained(), url, tmp_path / "out.parquet").table
    assert found["image"].tolist() == names
    np.testing.assert_allclose(archive.probabilities(found), archive.expected(ROWS[:12]), atol=1e-5)
    listed = predict(trained(), url.replace("?", "/list.csv?"), tmp_path / "list.parquet").table
    assert listed["refused"].tolist()[2] == "file missing" and listed["refused"].isna().sum() == 2


def test_an_ensemble_and_a_file_of_weights(tmp_path: Path) -> None:
    both = ensemble.make(tmp_path / "both", [trained(), trained(seed=1)])
    found = predict(both, store(), tmp_path / "both.parquet", thresholds=0.3)
    mean = (archive.expected(ROWS) + archive.expected(ROWS, trained(seed=1))) / 2
    np.testing.assert_allclose(archive.probabilities(found.table), mean, atol=1e-5)
    assert found.metadata["weights"] == [atomic.sha256(run.weights) for run in both.members]
    weights = predict(trained().weights, store(), tmp_path / "weights.parquet", thresholds={"Mass": 0.2})
    np.testing.assert_allclose(archive.probabilities(weights.table), archive.expected(ROWS), atol=1e-5)
    assert weights.metadata["thresholds"] == {"Edema": 0.5, "Mass": 0.2, "Effusion": 0.5}


def test_classes_are_decided_by_the_largest_probability(tmp_path: Path) -> None:
    found = predict(trained("multiclass"), store("multiclass"), tmp_path / "out.parquet").table
    decided = found.filter(regex="^decision/").to_numpy(bool)
    assert (decided.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(decided.argmax(axis=1), archive.probabilities(found).argmax(axis=1))
    with pytest.raises(UserError, match="decided by the largest probability: leave them out"):
        predict(trained("multiclass"), store("multiclass"), tmp_path / "other.parquet", thresholds="youden")


@pytest.mark.parametrize("verify", ["background", "manifest"])
def test_nothing_is_kept_of_a_store_whose_bytes_changed(
    verify: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, with a run whose config asks for a check or does not; parts of 8 inputs."""
    monkeypatch.setattr(prediction_parts, "PART_INPUTS", 8)
    run, shards, out = tmp_path / "run", tmp_path / "shards", tmp_path / "out.parquet"
    shutil.copytree(trained().path, run)
    config = run / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("verify: background", f"verify: {verify}"))
    shutil.copytree(store().path, shards)
    shard = next(iter(sorted(shards.glob("*.arrow"))))
    flip(shard, 1000)
    code = cli.main(["predict", str(run), str(shards), str(out), "--batch-size", "4"])
    if verify == "manifest":
        assert code == 0 and out.exists()
        return
    assert code == 2 and not out.exists() and not list(tmp_path.glob("*.parts/part-*"))
    error = capsys.readouterr().err
    assert f"{shard.name} (rows {ROWS[0]} to " in error and f"on the node {platform.node()}" in error
    flip(shard, 1000)
    assert cli.main(["predict", str(run), str(shards), str(out)]) == 0


# ---- decisions, columns and metadata


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> cxr_ray.Run:
    """A copy of the run with an evaluation by a rule."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained().path, folder)
    cxr_ray.evaluate(folder, thresholds="youden", report={"bootstrap": 0}, log=quiet)
    return cxr_ray.load_run(folder)


def test_decisions_are_at_the_operating_points_of_the_evaluation(evaluated: cxr_ray.Run, tmp_path: Path) -> None:
    part, _ = evaluated.headline()
    results = evaluated.evaluation(part)
    found = predict(evaluated, store(), tmp_path / "out.parquet")
    for label, threshold in results["thresholds"].items():
        expected = found.table[f"prob/{label}"] >= np.float32(threshold)
        assert found.table[f"decision/{label}"].astype(bool).tolist() == expected.tolist()
    assert found.metadata["thresholds"] == results["thresholds"]
    method = found.metadata["calibration"]
    if method is not None and method in results["calibration"]["fitted"]:
        prob = archive.probabilities(found.table)
        wanted = calibration.apply(results["calibration"]["fitted"][method], prob, results["labels"])
        np.testing.assert_allclose(found.table.filter(regex="^calibrated/").to_numpy(), wanted, atol=1e-6)
    same = predict(trained(), store(), tmp_path / "same.parquet", thresholds="youden")
    assert same.metadata["thresholds"] == pytest.approx(results["thresholds"])


def test_operating_points_by_image_are_not_used_by_study(evaluated: cxr_ray.Run, tmp_path: Path) -> None:
    lines: list[str] = []
    found = predict(evaluated, store(), tmp_path / "out.parquet", by="study", log=lines.append)
    assert set(found.metadata["thresholds"].values()) == {0.5}
    (note,) = (line for line in lines if "decisions by study are at 0.5" in line)
    assert f"the operating points of {evaluated.path.name} are by image (`cxr-ray evaluate --by study" in note
    lines.clear()
    predict(evaluated, store(), tmp_path / "given.parquet", by="study", thresholds=0.4, log=lines.append)
    predict(evaluated, store(), tmp_path / "image.parquet", log=lines.append)
    assert not any("decisions by study" in line for line in lines)


def test_calibrated_probabilities_are_those_of_the_report(evaluated: cxr_ray.Run, tmp_path: Path) -> None:
    file = evaluated.path / f"evaluation-{evaluated.headline()[0]}.json"
    before = file.read_text(encoding="utf-8")
    results = json.loads(before)
    labels = results["labels"]
    platt = {
        "method": "platt",
        "task": "multilabel",
        "too_few": {},
        "labels": {k: {"intercept": -1.0, "slope": 2.0} for k in labels},
    }
    results["calibration"] |= {"fitted": {"platt": platt}, "too_few": {}}
    file.write_text(json.dumps(results), encoding="utf-8")
    try:
        found = predict(evaluated, store(), tmp_path / "out.parquet")
    finally:
        file.write_text(before, encoding="utf-8")
    prob = archive.probabilities(found.table).astype(float)
    wanted = 1 / (1 + np.exp(1.0) * ((1 - prob) / prob) ** 2)  # logit -1 + 2 logit(p)
    np.testing.assert_allclose(found.table.filter(regex="^calibrated/").to_numpy(), wanted, atol=1e-5)
    assert found.metadata["calibration"] == "platt"


def test_columns_and_metadata(tmp_path: Path) -> None:
    archive.files(tmp_path / "secret-folder", 3)
    found = predict(trained(), tmp_path / "secret-folder", tmp_path / "out.parquet", thresholds={"Edema": 0.25})
    labels = trained().info["labels"]
    kinds = [f"{kind}/{label}" for kind in ("prob", "decision") for label in labels]
    assert found.table.columns.tolist() == ["image", *kinds, "refused", "unusual", "unusual_score"]
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert str(schema.field("prob/Edema").type) == "float" and str(schema.field("decision/Edema").type) == "bool"
    metadata = json.loads(schema.metadata[b"cxr_ray"])
    assert metadata == found.metadata and metadata["run"] == trained().path.name
    assert metadata["weights"] == [atomic.sha256(trained().weights)] and metadata["thresholds"]["Edema"] == 0.25
    assert metadata["versions"]["cxr_ray"] == cxr_ray.__version__ and metadata["labels"] == list(labels)
    assert str(tmp_path) not in (tmp_path / "out.parquet").read_bytes().decode("latin-1")
    csv = predict(trained(), tmp_path / "secret-folder", tmp_path / "out.csv", thresholds={"Edema": 0.25})
    read = pd.read_csv(tmp_path / "out.csv")
    assert read.columns.tolist() == found.table.columns.tolist() and read["decision/Edema"].dtype == bool
    np.testing.assert_allclose(archive.probabilities(read), archive.probabilities(found.table), atol=1e-6)
    assert json.loads((tmp_path / "out.csv.json").read_text()) == csv.metadata


def test_ids_are_added_only_when_asked_and_hashed(tmp_path: Path) -> None:
    archive.dicoms(tmp_path / "dicoms", 4)
    plain = predict(trained(), tmp_path / "dicoms", tmp_path / "plain.parquet")
    assert not {"patient", "study"} & set(plain.table.columns)
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    found = predict(trained(), tmp_path / "dicoms", tmp_path / "ids.parquet", ids=True, hash_key=key).table
    assert found["patient"].nunique() == 1 and found["study"].tolist() == [s for s in found["study"][::2] for _ in "ab"]
    body = (tmp_path / "ids.parquet").read_bytes()
    assert not any(value.encode() in body for value in [*dicom.SECRETS.values(), "1.2.3.1"])
    of_store = predict(trained(), store(), tmp_path / "store.parquet", ids=True).table
    records = store().index.set_index("row").loc[of_store["row"]]
    assert of_store["patient"].tolist() == records["patient"].tolist()  # as the store has them
    listed = pd.DataFrame({"image": ["IM000", "IM001"], "patient": ["Jane", "Jane"], "study": ["7", "8"]})
    listed.to_csv(tmp_path / "dicoms" / "list.csv", index=False)
    of_table = predict(
        trained(), tmp_path / "dicoms" / "list.csv", tmp_path / "table.parquet", ids=True, hash_key=key
    ).table
    assert of_table["patient"].nunique() == 1 and of_table["study"].nunique() == 2
    assert "Jane" not in of_table["patient"].tolist()


# ---- files that cannot be used


def test_bad_files_are_rows_with_reasons_and_the_others_are_predicted(tmp_path: Path) -> None:
    names = archive.files(tmp_path / "files", 20)
    clean = predict(trained(), tmp_path / "files", tmp_path / "clean.parquet").table.set_index("image")
    add_bad_files(tmp_path / "files")
    lines: list[str] = []
    found = predict(trained(), tmp_path / "files", tmp_path / "out.parquet", batch_size=4, log=lines.append)
    table = found.table.set_index("image")
    assert table["refused"].dropna().to_dict() == BAD and found.refused == len(BAD)
    assert found.metadata["reasons"] == dict.fromkeys(sorted(BAD.values()), 1)
    refused = table.loc[list(BAD)]
    assert refused.filter(regex="^(prob|decision)/").isna().all().all()
    np.testing.assert_allclose(
        archive.probabilities(table.loc[names]), archive.probabilities(clean.loc[names]), atol=1e-6
    )


def test_a_table_with_missing_blank_and_outside_files(tmp_path: Path) -> None:
    names = archive.files(tmp_path / "files", 2)
    listed = [names[0], "gone.png", "", "../other.png", "/etc/passwd", names[0]]
    pd.DataFrame({"image": listed, "n": range(6)}).to_csv(tmp_path / "files" / "list.csv", index=False)
    found = predict(trained(), tmp_path / "files" / "list.csv", tmp_path / "out.parquet").table
    reasons = found["refused"].fillna("used").tolist()
    assert reasons == ["used", "file missing", "no file named", "outside the root", "outside the root", "used"]
    assert found["image"].tolist() == [names[0], "gone.png", "", "../other.png", "passwd", names[0]]


def test_a_decoder_that_crashes_costs_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes" / "killer"))
    names = archive.files(tmp_path / "files", 6)
    (tmp_path / "files" / "0" / "kill.png").write_bytes(f"die of {signal.SIGSEGV:d} ".encode())
    (tmp_path / "files" / "0" / "killed.png").write_bytes(f"die of {signal.SIGKILL:d} ".encode())
    found = predict(trained(), tmp_path / "files", tmp_path / "out.parquet").table.set_index("image")
    assert found["refused"].dropna().to_dict() == {
        "0/kill.png": "the decoder crashed",
        "0/killed.png": "too little memory to decode it",
    }
    np.testing.assert_allclose(archive.probabilities(found.loc[names]), archive.expected(ROWS[:6]), atol=1e-5)


# ---- mistakes


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    archive.files(tmp_path / "files", 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "note.txt").write_text("x")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"x")
    out = tmp_path / "out.parquet"
    (tmp_path / "list.csv").write_text("file\na.png\n")
    small = fake_store(size=(20, 20))
    store_writer.write(tmp_path / "small", small.pixels, small.index.drop(columns=["mean", "variance"]), small.info)
    for inputs, options, message in (
        (tmp_path / "empty", {}, "is no store and has no image"),
        (tmp_path / "texts", {}, r"only 1 \.txt"),
        (tmp_path / "gone", {}, "there is nothing at"),
        (
            tmp_path / "bad",
            {},
            r"none of the 1 inputs can be used: 1 not an image \(such as a.png\); nothing was written",
        ),
        (tmp_path / "list.csv", {}, "has no column 'image'"),
        (tmp_path / "list.csv", {"image": "file"}, r"1 file missing \(such as a.png\)"),
        (tmp_path / "list.csv", {"image": "file", "root": tmp_path / "gone"}, "--root is the folder"),
        (tmp_path / "files", {"image": "x"}, "--image belongs to a table"),
        (tmp_path / "files", {"part": "val"}, "--part is a part of the run's own store"),
        (store("multiclass"), {"part": "val"}, "is another one: remove it"),
        (store(), {"part": "dev"}, "unknown split 'dev'"),
        (store(), {"sr": tmp_path / "sr"}, "a store has none"),
        (tmp_path / "small", {}, "enlarging adds nothing"),
        (tmp_path / "files", {"sr": tmp_path / "files" / "sr"}, "give a folder outside"),
        (store(), {"batch_size": 0}, "must be at least 1"),
        (store(), {"hash_key": tmp_path / "key"}, "the hash key is for ids"),
        (store(), {"thresholds": {"Edma": 0.5}}, "Edma"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            predict(trained(), inputs, out, **options)
        assert "\n" not in str(caught.value)
        assert not out.exists() and not list(tmp_path.glob("*.parts")), message
    for name, message in (("out.txt", "ends with .parquet or .csv"), ("files", "ends with|is a folder")):
        with pytest.raises(UserError, match=message):
            predict(trained(), store(), tmp_path / name)
    failed = tmp_path / "runs" / "failed"
    failed.mkdir(parents=True)
    for name in ("run.json", "config.yaml"):
        (failed / name).write_bytes((trained().path / name).read_bytes())
    with pytest.raises(UserError, match="has no model yet"):
        predict(failed, store(), out)


def test_a_hundred_files_need_one_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two predictions of one output at the same time: the second is refused."""
    from cxr_ray.storage.lease import Lease

    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    with Lease(parts), pytest.raises(UserError, match=r"out.parquet is being predicted now, by process"):
        predict(trained(), store(), tmp_path / "out.parquet")


def test_what_another_process_finished_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two predictions of one output: the first ends when the second has looked for an output, and has not taken its lease yet."""
    from cxr_ray.storage.lease import Lease

    out = tmp_path / "out.parquet"
    enter = Lease.__enter__
    written: list[bytes] = []

    def late(self: Lease) -> Lease:
        if not written:
            written.append(b"")
            predict(trained(), store(), out)
            written[0] = out.read_bytes()
            (tmp_path / "out.parquet.parts").mkdir()
        return enter(self)

    with monkeypatch.context() as patch:
        patch.setattr(Lease, "__enter__", late)
        assert predict(trained(), store(), out).already
    assert out.read_bytes() == written[0] and sorted(tmp_path.iterdir()) == [out]


def test_wait_is_the_limit_of_the_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cxr_ray.on_ray import cluster, room

    def ensure(bundle: Any, count: int, *, wait: float | None, log: Any) -> None:
        raise UserError(f"waited {wait} minutes")

    monkeypatch.setattr(cluster, "session", lambda *args, **options: nullcontext(False))
    monkeypatch.setattr(room, "uses_gpu", lambda wanted: False)
    monkeypatch.setattr(room, "ensure", ensure)
    run = str(trained().path)
    for words in (
        ["predict", run, str(store().origin), str(tmp_path / "out.parquet")],
        ["explain", run, "--out", str(tmp_path / "maps"), "--methods", "saliency"],
    ):
        assert cli.main([*words, "--address", "192.0.2.1:6379", "--wait", "2.5"]) == 2
        assert "waited 2.5 minutes" in capsys.readouterr().err


def test_a_picture_in_colour(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(tmp_path / "rgb" / "a.jpg")
    found = predict(trained(), tmp_path / "rgb", tmp_path / "out.parquet").table
    wanted = cxr_ray.load_predictor(trained(), gpu=False)([tmp_path / "rgb" / "a.jpg"])
    np.testing.assert_allclose(archive.probabilities(found), wanted, atol=1e-5)
