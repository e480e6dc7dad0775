"""Models by name: the options reach the network, and every mistake is one line."""

from typing import Any

import pytest
import torch

from cxr_ray import models
from cxr_ray.errors import UserError
from cxr_ray.models.create import create_model, list_models
from cxr_ray.registry import MODELS
from tests.fakes.networks import build, gray


def test_the_list_has_every_registered_model() -> None:
    assert list_models() == [entry.name for entry in MODELS] and "resnet18" in list_models()


def test_it_is_the_model_of_a_config_with_these_settings() -> None:
    torch.manual_seed(0)
    model = create_model("lenet", 5, image_size=(32, 32), normalize=(0.5, 0.25), dropout=0.1, stem="repeat")
    same = build("lenet", dropout=0.1, stem="repeat")
    assert model.training and model.spec == same.spec
    with torch.no_grad():
        assert torch.equal(model.eval()(gray(2, (40, 32))), same.eval()(gray(2, (40, 32))))


def test_by_default_it_takes_the_usual_size_of_the_network() -> None:
    with models.skeletons():
        assert create_model("inception_v3", num_outputs=2).spec.image_size == (299, 299)


def test_the_models_own_options_are_keywords() -> None:
    with models.skeletons():
        assert create_model("googlenet", 2, auxiliary=0.0).auxiliary_weight == 0.0
        assert create_model("googlenet", 2, options={"auxiliary": 0.1}).auxiliary_weight == 0.1


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("resnet18", {}, r"create_model\('resnet18', num_outputs="),
        ("restnet18", {"num_outputs": 2}, "did you mean 'resnet18'"),
        ("lenet", {"num_outputs": 2, "num_output": 3}, "did you mean 'num_outputs'"),
        ("lenet", {"num_outputs": 2, "drop_out": 0.1}, "did you mean 'dropout'"),
        ("lenet", {"num_outputs": 2, "dropout": 3}, "create_model: dropout: .*got 3"),
        ("googlenet", {"num_outputs": 2, "auxiliary": -1}, "auxiliary of googlenet: .*got -1"),
        ("lenet", {"num_outputs": 2, "value_range": (1, 0)}, "black below white"),
        ("lenet", {"num_outputs": 2, "value_range": (0, 1, 2)}, r"value_range must be two numbers \(black, white\)"),
        ("lenet", {"num_outputs": 2, "value_range": (0, float("inf"))}, "value_range must be two finite numbers"),
        ("lenet", {"num_outputs": 2, "value_range": None}, "value_range must be two numbers"),
        ("lenet", {"num_outputs": 2, "normalize": (1,)}, r"normalize must be two numbers \(mean, deviation\)"),
        ("lenet", {"num_outputs": 2, "image_size": (32,)}, "create_model: image_size: give pixels"),
        ("lenet", {"num_outputs": 2, "image_size": 32.5}, "create_model: image_size: give pixels"),
        ("lenet", {"num_outputs": 2.5}, "num_outputs must be a whole number"),
        ("lenet", {"num_outputs": 0}, "0 outputs"),
    ],
)
def test_a_mistake_is_one_line(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        create_model(name, **given)
    assert "\n" not in str(caught.value)
