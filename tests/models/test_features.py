"""Pooled features: the head of them gives the model's own logits, for every kind of head."""

import pytest
import torch
from torch import nn

from cxr_ray.models import Classifier
from cxr_ray.models.create import create_model
from cxr_ray.models.features import feature_count, logits_and_features, with_head
from cxr_ray.models.heads import head_name


def _model(name: str, size: int) -> Classifier:
    torch.manual_seed(0)
    return create_model(name, 3, image_size=size).eval()


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("lenet", 32, 84),
        ("resnet18", 64, 512),
        ("densenet121", 64, 1024),
        ("squeezenet1_1", 64, 512),
        ("googlenet", 64, 1024),
    ],
)
def test_the_head_of_the_features_gives_the_logits(name: str, size: int, count: int) -> None:
    model = _model(name, size)
    images = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        logits, features = logits_and_features(model, images)
        head = model.backbone.get_submodule(head_name(model.backbone, 3))
        by_hand = head(features) if isinstance(head, nn.Linear) else head(features[:, :, None, None]).flatten(1)
        assert torch.allclose(logits, model(images), atol=1e-6)
    assert features.shape == (3, count) and features.dtype == torch.float32
    assert feature_count(model) == count
    assert torch.allclose(by_hand, logits, atol=1e-4)


def test_no_image_has_features_of_the_same_width() -> None:
    model = _model("lenet", 32)
    with torch.inference_mode():
        logits, features = logits_and_features(model, torch.zeros((0, 32, 32), dtype=torch.uint8))
    assert logits.shape == (0, 3) and features.shape == (0, 84)


def test_the_model_is_left_without_a_hook() -> None:
    model = _model("lenet", 32)
    logits_and_features(model, torch.zeros((1, 32, 32), dtype=torch.uint8))
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["lenet", "resnet18", "squeezenet1_1", "googlenet"])
def test_another_head_on_the_same_features(name: str) -> None:
    model = _model(name, 64)
    images = torch.randint(0, 256, (2, 64, 64), dtype=torch.uint8)
    weight, bias = torch.randn(5, feature_count(model)), torch.randn(5)
    made = with_head(model, weight, bias)
    with torch.inference_mode():
        _, features = logits_and_features(model, images)
        assert torch.allclose(made(images), features @ weight.T + bias, atol=1e-3, rtol=1e-4)
        assert torch.allclose(logits_and_features(made, images)[1], features, atol=1e-5)
    assert made.spec.outputs == 5 and not made.training
