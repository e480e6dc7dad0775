"""A model as one file: the description rebuilds the module, and files that are not complete are refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cxr_ray import models
from cxr_ray.errors import UserError
from cxr_ray.models import serialization
from cxr_ray.models.classifier import ClassifierSpec
from cxr_ray.models.create import create_model
from tests.fakes.networks import build, gray


@pytest.mark.parametrize("name", ["lenet", "mnasnet0_5"])
def test_the_description_rebuilds_the_module(name: str) -> None:
    model = build(name, size=(32, 32), stem="repeat", dropout=0.2).eval()
    description = json.loads(json.dumps(model.describe()))
    assert description["parameters"] == models.parameter_count(model)
    state = torch.get_rng_state()
    again = models.rebuild(ClassifierSpec.from_description(description))
    assert torch.equal(state, torch.get_rng_state())
    assert not again.training and again.describe() == model.describe() and again.spec == model.spec
    again.load_state_dict(dict(model.state_dict()))  # a plain mapping, as safetensors gives
    with torch.no_grad():
        assert torch.equal(again(gray(2, (40, 32))), model(gray(2, (40, 32))))


def test_the_description_has_the_keys_of_the_format() -> None:
    """docs/reference/formats.md, `model.safetensors`."""
    assert build("lenet", size=(28, 32), options={}).describe() == {
        "name": "lenet", "options": {}, "stem": "gray", "head": "replace", "dropout": 0.0, "dropout_where": "head",
        "outputs": 5, "image_size": [28, 32], "mean": 0.5, "deviation": 0.25,
        "parameters": models.parameter_count(build("lenet", size=(28, 32))),
    }  # fmt: skip


def test_the_description_must_be_complete() -> None:
    description = build("lenet").describe()
    with pytest.raises(UserError, match="lacks stem"):
        ClassifierSpec.from_description({k: v for k, v in description.items() if k != "stem"})
    older = {k: v for k, v in description.items() if k not in ("head", "dropout_where")}
    assert ClassifierSpec.from_description(older) == build("lenet").spec


def test_a_written_model_is_read_back(tmp_path: Path) -> None:
    model, path = build("lenet", outputs=2).eval(), tmp_path / "model.safetensors"
    serialization.write(path, model, model.state_dict(), labels=["a", "b"], task="multilabel", precision="fp32")
    saved = serialization.read(path)
    assert (saved.labels, saved.task, saved.precision) == (("a", "b"), "multilabel", "fp32")
    with torch.no_grad():
        assert torch.equal(saved.model(gray(2, (32, 32))), model(gray(2, (32, 32))))


def test_files_that_are_no_model_of_this_project(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match=r"no model at .*; give a file"):
        serialization.read(path)
    save_file(build("lenet").state_dict(), path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="was not written by this project: its format is 'pt', not 'cxr_ray model 1'"):
        serialization.read(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"is not a complete safetensors file .*; copy it again or train again"):
        serialization.read(path)


def test_a_saved_model_keeps_its_value_range(tmp_path: Path) -> None:
    model, images = create_model("lenet", 2, image_size=32, value_range=(0, 1)).eval(), gray(2, (32, 32))
    serialization.save_model(tmp_path / "m.safetensors", model, labels=["a", "b"], task="multiclass")
    saved = serialization.read(tmp_path / "m.safetensors")
    assert (saved.labels, saved.task, saved.model.spec) == (("a", "b"), "multiclass", model.spec)
    assert model.describe()["value_range"] == [0.0, 1.0]
    with torch.no_grad():
        assert torch.equal(saved.model(images / 255), model(images / 255))


@pytest.mark.parametrize(
    ("labels", "task", "message"),
    [
        (["a"], "multilabel", "2 different names"),
        (["a", "a"], "multilabel", "2 different names"),
        ("ab", "multilabel", "2 different names"),
        ([1, 2], "multilabel", "must be names"),
        (["a", "b"], "multilable", "did you mean 'multilabel'"),
    ],
)
def test_labels_must_match_the_outputs(tmp_path: Path, labels: list[str], task: str, message: str) -> None:
    model = create_model("lenet", 2, image_size=32)
    with pytest.raises(UserError, match=message):
        serialization.save_model(tmp_path / "m.safetensors", model, labels=labels, task=task)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="got Linear"):
        serialization.save_model(tmp_path / "m.safetensors", torch.nn.Linear(1, 2), labels=["a", "b"])
    for place in (tmp_path, tmp_path / "none_such" / "m.safetensors"):
        with pytest.raises(UserError, match="a file in an existing folder"):
            serialization.save_model(place, model, labels=["a", "b"])
    assert not (tmp_path / "m.safetensors").exists()
