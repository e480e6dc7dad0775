"""Building a classifier by name: every mistake is one line that names the fix."""

from typing import Any

import pytest
from torch import nn

from cxr_ray import config, models
from cxr_ray.errors import UserError
from cxr_ray.registry import MODELS
from tests.fakes.networks import build


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("lenet", (11, 40), "at least 12 x 12, not 11 x 40"),
        ("covid_cnn", (40, 11), "at least 12 x 12, not 40 x 11"),
        ("vit_b_16", (40, 40), "multiple of 16, such as [32, 32]"),
        ("vit_b_16", (32, 48), "square images, not 32 x 48"),
        ("maxvit_t", (320, 320), "multiple of 224, such as [224, 224]"),
        ("alexnet", (32, 32), "its usual input is 224 x 224"),
    ],
)
def test_an_unsuitable_image_size(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError) as caught, models.skeletons():
        build(name, size=size)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"name": "resnet19"}, "did you mean 'resnet18'"),
        ({"name": "lenet", "options": {"depth": 3}}, "unknown option 'depth' at model.options of lenet"),
    ],
)
def test_unknown_names(hyperparameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**hyperparameters)


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan")])
def test_deviation_must_be_positive(deviation: float) -> None:
    with pytest.raises(UserError, match="above 0"):
        models.build(config.Model(name="lenet"), outputs=1, image_size=(28, 28), mean=0.5, deviation=deviation)


def test_a_users_model_must_give_logits() -> None:
    @MODELS.register("test_of_a_wrong_shape")
    def wrong(*, outputs: int, channels: int, image_size: tuple[int, int], options: Any) -> nn.Module:
        """Returns a map instead of logits."""
        return nn.Conv2d(channels, outputs, 3)

    try:
        with pytest.raises(UserError, match=r"gives \[1, 5, 30, 30\] for one image, not logits \[1, 5\]"):
            build("test_of_a_wrong_shape")
    finally:
        MODELS.unregister("test_of_a_wrong_shape")
    assert "test_of_a_wrong_shape" not in MODELS


def test_a_backbone_is_not_frozen_at_random_weights() -> None:
    with pytest.raises(UserError, match="a backbone with random weights is not worth freezing"):
        build("lenet", freeze_epochs=1)
