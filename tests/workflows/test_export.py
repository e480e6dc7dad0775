"""Exports of small runs: the files agree with the run where they are read without cxr_ray, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.inference import export as exporting
from cxr_ray.inference import predictor
from cxr_ray.runs import ensemble
from cxr_ray.storage.atomic import sha256
from cxr_ray.workflows.export import Exported, export
from tests.fakes.exported import onnx_probabilities, pt2_probabilities, trained_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return trained_run(tmp_path_factory.mktemp("lenet"), data={"image_size": [28, 28]})


def images_of(run: runs.Run, count: int = 40) -> np.ndarray:
    store = stores.open(run.info["store"]["path"])
    return store.images(store.index["row"][:count])


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def exported(run: runs.Run, tmp_path_factory: pytest.TempPathFactory) -> list[Exported]:
    """As ONNX and as pt2, after an evaluation."""
    points = {
        label: {"threshold": 0.1 + i / 10, "chosen": "", "met": True} for i, label in enumerate(run.info["labels"])
    }
    (run.path / "thresholds.json").write_text(json.dumps({"rule": "by hand", "labels": points, "measured_on": None}))
    return [export(run, tmp_path_factory.mktemp("out") / name, log=quiet) for name in ("model.onnx", "model.pt2")]


def test_both_formats_say_the_same_as_the_run(run: runs.Run, exported: list[Exported]) -> None:
    images, (onnx, pt2) = images_of(run), exported
    assert max(each.difference for each in exported) <= 1e-4 and pt2.checked_on == "32 images of the run's store"
    expected = predictor.load(run, gpu=False).probabilities(images)
    from_pt2, text = pt2_probabilities(pt2.path, images, [1, 7, 40])
    for found in (*onnx_probabilities(onnx.path, images, [1, 7, 40]), *from_pt2):
        assert found.dtype == np.float32 and np.abs(found - expected).max() <= 1e-4
    session = onnxruntime.InferenceSession(onnx.path, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    about = json.loads(text)
    assert about == pt2.metadata
    assert {
        key: value if isinstance(about[key], str) else json.loads(value) for key, value in properties.items()
    } == about


def test_the_metadata_say_what_the_numbers_mean(run: runs.Run, exported: list[Exported]) -> None:
    about = exported[0].metadata
    assert about["labels"] == run.info["labels"] and about["task"] == "multilabel" and about["run"] == "run"
    assert about["thresholds"] == pytest.approx({"Edema": 0.1, "Mass": 0.2, "Effusion": 0.3})
    assert about["input"]["shape"] == ["N", 32, 32] and about["input"]["dtype"] == "uint8"
    assert about["preprocessing"][0]["image_size"] == [28, 28]
    assert about["weights_sha256"] == [sha256(run.weights)]
    assert exported[0].card.name == "model.onnx.md" and "| Mass | 0.200 |" in exported[0].card.read_text()


def test_larger_images_are_resized_within_the_program(run: runs.Run, tmp_path: Path) -> None:
    exported = export(run, tmp_path / "large", format="onnx", size=(64, 50), log=quiet)
    assert exported.path.name == "large.onnx" and exported.checked_on.endswith("store, resized to 64 x 50")
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 50)).astype(np.uint8)
    expected = predictor.load(run, gpu=False).probabilities(images)
    assert np.abs(onnx_probabilities(exported.path, images, [3])[0] - expected).max() <= 1e-4
    with pytest.raises(UserError, match="the model needs 28 x 28 pixels and the images have 20 x 20"):
        export(run, tmp_path / "small.onnx", size=(20, 20), log=quiet)


def test_an_ensemble_is_the_mean_of_its_members(run: runs.Run, tmp_path: Path) -> None:
    other = trained_run(tmp_path, name="other", seed=3, model={"name": "covid_cnn"})
    other.update(store=run.info["store"])
    (other.path / "plan.parquet").write_bytes((run.path / "plan.parquet").read_bytes())
    (other.path / "predictions" / "val.parquet").write_bytes((run.path / "predictions" / "val.parquet").read_bytes())
    both = ensemble.make(tmp_path / "both", [run, other])
    exported = export(both, tmp_path / "both.pt2", log=quiet)
    images = images_of(run, 6)
    (found,), text = pt2_probabilities(exported.path, images, [4])
    assert np.abs(found - predictor.load(both, gpu=False).probabilities(images)).max() <= 1e-4
    assert json.loads(text)["weights_sha256"] == [sha256(run.weights), sha256(other.weights)]
    assert "The mean probability of 2 models" in exported.card.read_text()


def test_without_its_store_a_run_is_compared_on_synthetic_images(run: runs.Run, tmp_path: Path) -> None:
    gone = run.info["store"]
    lines: list[str] = []
    run.update(store={**gone, "path": str(tmp_path / "none")})
    try:
        exported = export(run, tmp_path / "model.onnx", log=lines.append)
    finally:
        run.update(store=gone)
    assert exported.checked_on == "32 synthetic images" and exported.size == (28, 28)
    assert lines[0] == f"note: the store is not at {tmp_path / 'none'}: the input is 28 x 28 pixels"
    assert "as for the store of the training" in exported.card.read_text()


def test_a_file_that_differs_is_not_written(run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = exporting.Deployed.forward
    monkeypatch.setattr(exporting.Deployed, "forward", lambda self, images: forward(self, images) + 2e-4)
    with pytest.raises(
        UserError, match=r"differs from the run by up to 0\.0002 on 32 images .*, so model\.pt2 was not written"
    ):
        export(run, tmp_path / "model.pt2", log=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_torch_cannot_export_is_one_line(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def data_dependent(self: Any, images: torch.Tensor) -> torch.Tensor:
        return (
            self.models[0](images) if images.float().mean() > 3 else images.float().mean() * torch.ones(len(images), 3)
        )

    monkeypatch.setattr(exporting.Deployed, "forward", data_dependent)
    with pytest.raises(
        UserError, match=r"torch cannot export lenet as pt2 .*cxr_ray.load_predictor work without an export"
    ) as error:
        export(run, tmp_path / "model.pt2", log=quiet)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("model", {}, "model does not say which format to write: end it with .pt2 or .onnx"),
        ("model.onnx", {"format": "pt2"}, "model.onnx ends with .onnx, and the format is pt2"),
        ("model", {"format": "tflite"}, "unknown format 'tflite'; known: pt2, onnx"),
        ("folder.onnx", {}, "folder.onnx is a folder; give the file to write"),
        ("s3://bucket/model.onnx", {}, "s3://bucket/model.onnx"),
    ],
)
def test_what_cannot_be_written_is_refused_first(
    run: runs.Run, tmp_path: Path, out: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UserError) as error:
        export(run, out if out.startswith("s3") else tmp_path / out, **options)
    assert message in str(error.value)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["resnet18", "densenet121", "mobilenet_v2", "vit_b_16", "covid_cnn"])
def test_real_images_have_the_runs_probabilities(model: str, shared_data: Path, tmp_path: Path) -> None:
    # After one epoch from random weights mobilenet_v2 gives one answer for all images.
    pretrained = (
        {"weights": str(shared_data / "weights" / "mobilenet_v2-b0353104.pth")} if model == "mobilenet_v2" else {}
    )
    run = trained_run(
        tmp_path, real=shared_data / "nih" / "images", images=100, size=96, model={"name": model, **pretrained},
        data={"image_size": [64, 64], "split": {"val": 0.2, "test": 0}},
        train={"epochs": 1, "batch_size": 16, "select": "last"},
    )  # fmt: skip
    images = images_of(run, 100)
    expected = predictor.load(run, gpu=False).probabilities(images)
    assert expected.std(axis=0).max() > 1e-3  # not one answer for all images
    onnx, pt2 = (export(run, tmp_path / f"{model}.{form}", log=quiet) for form in ("onnx", "pt2"))
    found = {
        "onnx": onnx_probabilities(onnx.path, images, [1, 32]),
        "pt2": pt2_probabilities(pt2.path, images, [1, 32])[0],
    }
    differences = {form: [float(np.abs(each - expected).max()) for each in both] for form, both in found.items()}
    print(model, differences)
    assert max(map(max, differences.values())) <= 1e-4
