"""Stems for gray images, and heads that replace or follow the published one."""

import pytest
import torch
from torch import nn

from cxr_ray import models
from cxr_ray.models import heads
from cxr_ray.models.classifier import ClassifierSpec
from tests.fakes.networks import build, gray


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "densenet121"])
def test_gray_stem_equals_the_colour_stem_on_equal_channels(name: str) -> None:
    one, three = (build(name, size=(64, 64), stem=stem).eval() for stem in ("gray", "repeat"))
    images = gray(2, (64, 64))
    with torch.no_grad():
        assert torch.allclose(one(images), three(images), atol=1e-5)
    assert models.parameter_count(one) < models.parameter_count(three)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "lenet", "googlenet"])
def test_an_appended_head_follows_the_published_one(name: str) -> None:
    images = gray(2, (64, 64))
    model = build(name, size=(64, 64), outputs=3, head="append").eval()
    published = heads.head_name(model.backbone, 1000)
    assert heads.head_name(model.backbone, 3) == f"{published}.appended"
    plain = build(name, size=(64, 64), outputs=1000).eval()
    state = {key: value for key, value in model.state_dict().items() if ".appended." not in key}
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state)
    fresh = model.backbone.get_submodule(f"{published}.appended")
    with torch.no_grad():  # a 1 x 1 convolution before average pooling equals a linear layer after it
        expected = nn.functional.linear(plain(images), fresh.weight.flatten(1), fresh.bias)  # type: ignore[operator, arg-type]
        assert torch.allclose(model(images), expected, atol=1e-5)
    count = len(models.head_logits(model.train()(images)))
    assert sum(".appended." in key for key in model.state_dict()) == 2 * count
    again = models.rebuild(ClassifierSpec.from_description(model.describe()))
    assert list(again.state_dict()) == list(model.state_dict())
