"""The classifier module: preprocessing, empty batches, memory layout, frozen backbones."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cxr_ray import models
from cxr_ray.errors import UserError
from cxr_ray.models.classifier import ClassifierSpec
from tests.fakes.networks import build, gray


def classifier_of(network: nn.Module, size: tuple[int, int], stem: str = "gray") -> models.Classifier:
    spec = ClassifierSpec(
        name="identity", options={}, stem=stem, dropout=0.0, outputs=1, image_size=size, mean=0.5, deviation=0.25
    )
    return models.Classifier(network, spec)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_preprocessing_is_scaled_normalised_and_repeated(dtype: torch.dtype) -> None:
    images = gray(2, (6, 8))
    x = classifier_of(nn.Identity(), (6, 8), "repeat")(images.to(dtype))
    assert x.shape == (2, 3, 6, 8) and x.dtype == torch.float32
    for n in range(2):
        for c in range(3):
            assert torch.allclose(x[n, c], (images[n].double() / 255 - 0.5).float() / 0.25, atol=1e-6)


def test_resize_is_antialiased_area_for_whole_factors_and_never_up() -> None:
    identity = classifier_of(nn.Identity(), (8, 4))
    flat = torch.full((1, 16, 16), 200, dtype=torch.uint8)
    assert torch.allclose(identity(flat), torch.full((1, 1, 8, 4), (200 / 255 - 0.5) / 0.25), atol=1e-5)
    stripes = torch.zeros(1, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 255  # without antialiasing every sampled column would be black or white
    x = classifier_of(nn.Identity(), (16, 16))(stripes) * 0.25 + 0.5
    assert (x[..., 2:-2] - 0.5).abs().max() < 0.02
    with pytest.raises(UserError, match=r"needs 8 x 4 pixels and the images have 16 x 3.*at most \[16, 3\]"):
        identity(torch.zeros(1, 16, 3, dtype=torch.uint8))


def test_images_must_be_planes() -> None:
    with pytest.raises(ValueError, match="N, H, W"):
        build("lenet")(torch.zeros(32, 32))


def test_no_images_give_no_logits_zero_gradients_and_unchanged_statistics() -> None:
    model = build("resnet18")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    logits = model(gray(0, (32, 32)))
    assert logits.shape == (0, 5)
    logits.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    with torch.no_grad():
        assert model.eval()(gray(0, (32, 32))).shape == (0, 5)


def test_no_images_reach_auxiliary_heads_too() -> None:
    """A rank without rows must send a gradient for every weight, or the other ranks wait forever."""
    model = build("googlenet", size=(64, 64), outputs=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    outputs = models.head_logits(model(gray(0, (64, 64))))
    assert [tuple(logits.shape) for logits in outputs] == [(0, 3)] * 3
    sum(logits.sum() for logits in outputs).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_channels_last_changes_only_the_layout() -> None:
    model = build("resnet18", stem="repeat").eval()
    images = gray(2, (32, 32))
    with torch.no_grad():
        plain = model(images)
        model.to(memory_format=torch.channels_last)
        assert model.preprocess(images).is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(model(images), plain, atol=1e-4)
    assert model.to("cpu").channels_last
    assert not model.to(memory_format=torch.contiguous_format).channels_last


def test_normalisation_is_not_among_the_weights() -> None:
    assert all(key.startswith("backbone.") for key in build("lenet").state_dict())


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_a_frozen_backbone_preserves_weights_and_statistics(name: str) -> None:
    model = build(name, size=(64, 64), outputs=3)
    assert not model.freeze(False) and model.freeze(True) and not model.freeze(True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    outputs: tuple[Tensor, ...] = models.head_logits(model(gray(4, (64, 64))))
    sum(logits.square().sum() for logits in outputs).backward()  # type: ignore[union-attr]
    head = {id(p) for p in model.head_parameters()}
    assert all((p.grad is not None) == (id(p) in head) for p in model.parameters())
    heads = ["backbone.fc", "backbone.aux1", "backbone.aux2"] if name == "googlenet" else ["backbone.fc"]
    outside = [key for key in before if not key.startswith(tuple(heads))]
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in outside)
    assert model.freeze(False)
    with torch.no_grad():
        model(gray(4, (64, 64)))
    assert all(p.requires_grad for p in model.parameters()) and all(module.training for module in model.modules())
    key = "backbone.bn1.running_mean" if name == "resnet18" else "backbone.conv1.bn.running_mean"
    assert not torch.equal(before[key], model.state_dict()[key])


def test_a_channel_axis_of_one_is_taken() -> None:
    model, images = build("lenet").eval(), gray(3, (32, 32))
    with torch.no_grad():
        assert torch.equal(model(images[:, None]), model(images))
    with pytest.raises(ValueError, match=r"\[N, H, W\] or \[N, 1, H, W\], not \[3, 3, 32, 32\]"):
        model(images[:, None].expand(-1, 3, -1, -1))


@pytest.mark.parametrize(("black", "white"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 4095.0)])
def test_the_value_range_is_that_of_float_images_only(black: float, white: float) -> None:
    network, images = nn.Identity(), gray(2, (6, 8))
    usual = classifier_of(network, (6, 8))
    other = models.Classifier(network, replace(usual.spec, value_range=(black, white)))
    scaled = images.float() / 255 * (white - black) + black
    assert torch.allclose(other(scaled), usual(images), atol=1e-5)
    assert torch.equal(other(images), usual(images))


def test_an_empty_value_range_is_refused() -> None:
    with pytest.raises(UserError, match="black below white"):
        replace(classifier_of(nn.Identity(), (6, 8)).spec, value_range=(1.0, 1.0))
