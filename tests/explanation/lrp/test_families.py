"""LRP of the networks that declare it: `cxr-ray models` may list only what runs and adds up here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cxr_ray import config, models
from cxr_ray.datasets.phantom.generate import draw_patient
from cxr_ray.explanation.lrp import refusal
from cxr_ray.explanation.methods import attribute
from cxr_ray.models.family import LRP
from cxr_ray.registry import MODELS
from tests.fakes.networks import build

BATCH = 6
FINDINGS = ("Cardiomegaly", "Lung Opacity", "Pleural Effusion")
SMALL = [("lenet", 28), ("covid_cnn", 32), ("pneumonia_cnn", 32), ("resnet18", 32)]
# The starts of the names of torchvision's families whose code is the same, and a small network of theirs at a small size.
FAMILIES = {
    ("alexnet",): ("alexnet", 64), ("vgg",): ("vgg11_bn", 32), ("resnet", "resnext", "wide_resnet"): ("resnext50_32x4d", 32),
    ("densenet",): ("densenet121", 32), ("googlenet",): ("googlenet", 64), ("inception_v3",): ("inception_v3", 75),
    ("squeezenet",): ("squeezenet1_1", 32), ("shufflenet",): ("shufflenet_v2_x0_5", 32), ("mnasnet",): ("mnasnet0_5", 32),
    ("mobilenet_v2",): ("mobilenet_v2", 32), ("mobilenet_v3",): ("mobilenet_v3_small", 32), ("regnet_x",): ("regnet_x_400mf", 32),
    ("regnet_y",): ("regnet_y_400mf", 32), ("efficientnet_b",): ("efficientnet_b0", 32), ("convnext",): ("convnext_tiny", 32),
    ("vit",): ("vit_b_32", 32), ("swin",): ("swin_t", 32),
}  # fmt: skip
SLOW_FAMILIES = {("efficientnet_v2",): ("efficientnet_v2_s", 32), ("maxvit",): ("maxvit_t", 224)}


def uneven(network: nn.Module, x: Tensor) -> nn.Module:
    """`network` in eval mode with running statistics of `x`, and biases, norms and heads that are not at their first values."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.9
    with torch.no_grad():
        network.train()(x)
        for parameter in network.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return network.eval()


def check_declared(name: str, size: int) -> None:
    """Every LRP method that `name` declares adds up on a small input."""
    declared = [method for method in models.family_of(MODELS[name]).explained_by if method.startswith("lrp_")]
    assert declared == list(LRP)
    x = torch.randn((3, 1, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = uneven(build(name, size=(size, size)).backbone.double(), x)
    x, targets = x[:2], torch.tensor([0, 4])
    for method in declared:
        found = attribute(method, network, x, targets)
        certificate = found.certificate
        assert certificate is not None and certificate.adds_up.all() and found.maps.shape == (2, size, size)
        terms = certificate.relevance + certificate.bias + certificate.clip + certificate.epsilon
        assert torch.allclose(terms, network(x).gather(1, targets[:, None])[:, 0], rtol=1e-6, atol=1e-9)
        assert found.maps.abs().amax((1, 2)).min() > 0.0


@pytest.mark.parametrize(("name", "size"), SMALL)
def test_small_networks_that_declare_it(name: str, size: int) -> None:
    check_declared(name, size)


@pytest.mark.long
@pytest.mark.parametrize(("name", "size"), FAMILIES.values())
def test_a_network_of_every_family_that_declares_it(name: str, size: int) -> None:
    check_declared(name, size)


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "size"), SLOW_FAMILIES.values())
def test_networks_that_take_longer(name: str, size: int) -> None:
    check_declared(name, size)


def test_every_network_that_declares_it_is_of_a_family_above() -> None:
    starts = tuple(start for family in [*FAMILIES, *SLOW_FAMILIES] for start in family)
    declaring = {entry.name for entry in MODELS if "lrp_epsilon" in models.family_of(entry).explained_by}
    assert {name for name in declaring if not name.startswith(starts)} <= {name for name, _ in SMALL}


def test_what_declares_nothing_is_refused() -> None:
    network = build("swin_v2_t", size=(64, 64)).backbone.eval()
    assert "torch.normalize (in features.1.0.attn)" in str(refusal(network, torch.zeros(1, 1, 64, 64)))


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.5, "dropout_where": "maps"},
        {"dropout": 0.5, "head": "append", "stem": "repeat"},
    ],
)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_dropout_of_maps_and_appended_heads(name: str, settings: dict[str, Any]) -> None:
    network = build(name, size=(32, 32), **settings).backbone.double()
    x = torch.randn((3, 3 if "stem" in settings else 1, 32, 32), generator=torch.Generator().manual_seed(0)).double()
    uneven(network, x)
    found = attribute("lrp_epsilon", network, x, torch.tensor([0, 1, 2]), epsilon=0.0)
    x.requires_grad_()
    gradient = torch.autograd.grad(network(x)[torch.arange(3), torch.arange(3)].sum(), x)[0]
    assert torch.allclose(found.maps, (gradient * x).sum(1), rtol=1e-8, atol=1e-10 * float(gradient.abs().max()))


def phantoms(n: int, size: int) -> tuple[Tensor, Tensor]:
    """n synthetic images [n, size, size] and whether each has the three FINDINGS."""
    rng = np.random.default_rng(0)
    images: list[Tensor] = []
    labels: list[list[float]] = []
    number = 0
    while len(images) < n:
        for record, pixels, _ in draw_patient(number, size=size, rng=rng):
            images.append(torch.from_numpy(pixels.copy()))
            labels.append([float(record[name] == "1.0") for name in FINDINGS])
        number += 1
    return torch.stack(images[:n]), torch.tensor(labels[:n])


def trained(name: str, size: int, steps: int) -> tuple[models.Classifier, Tensor]:
    """A classifier in float64 after a small training on phantoms, and two images that it did not see."""
    images, labels = phantoms(BATCH * steps + 2, size)
    torch.manual_seed(0)
    model = build(name, outputs=len(FINDINGS), size=(size, size))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.3
    for step in range(steps):
        rows = slice(BATCH * step, BATCH * step + BATCH)
        logits = models.head_logits(model(images[rows]))[0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.double().eval(), images[-2:]


def compare(network: nn.Module, x: Tensor, targets: Tensor) -> dict[str, float]:
    """Errors of the identity relative to the logit, by method; of epsilon 0 the correlation with gradient x input and the clip terms."""
    out = {}
    for method in LRP:
        certificate = attribute(method, network, x, targets).certificate
        assert certificate is not None and certificate.adds_up.all()
        terms = certificate.relevance + certificate.bias + certificate.clip + certificate.epsilon
        out[method] = float(((terms - certificate.logit) / certificate.logit).abs().max())
    x = x.clone().requires_grad_()
    gradient = torch.autograd.grad(network(x).gather(1, targets[:, None]).sum(), x)[0]
    wanted = (gradient * x).sum(1).detach()
    exact = attribute("lrp_epsilon", network, x.detach(), targets, epsilon=1e-12)
    assert exact.certificate is not None
    out["clip"] = float((exact.certificate.clip / exact.logits).abs().max())
    out["correlation"] = min(
        float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
        for a, b in zip(exact.maps, wanted, strict=True)
    )
    return out


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "size", "relu"),
    [("lenet", 28, True), ("covid_cnn", 64, True), ("pneumonia_cnn", 64, True), ("alexnet", 64, True), ("resnet18", 64, True),
     ("resnet50", 64, True), ("densenet121", 64, True), ("vgg16", 32, True), ("googlenet", 64, True), ("mobilenet_v2", 64, True),
     ("efficientnet_b0", 64, False), ("vit_b_16", 32, False)],
)  # fmt: skip
def test_trained_networks_add_up(name: str, size: int, relu: bool) -> None:
    model, images = trained(name, size, steps=4)
    with torch.no_grad():
        targets = model(images).argmax(1)
    found = compare(model.backbone, model.preprocess(images), targets)
    print(name, {key: f"{value:.2g}" if key != "correlation" else f"{value:.8f}" for key, value in found.items()})
    assert all(found[method] < 1e-6 for method in LRP)
    assert not relu or found["correlation"] >= 0.9999


@pytest.mark.long
def test_imagenet_weights_of_mobilenet_saturate_and_add_up(shared_data: Path) -> None:
    weights = shared_data / "weights/mobilenet_v2-b0353104.pth"
    model = models.build(
        config.Model(name="mobilenet_v2", weights=str(weights), head="append", stem="repeat"),
        outputs=3, image_size=(224, 224), mean=0.449, deviation=0.226,
    ).double().eval()  # fmt: skip
    files = sorted((shared_data / "nih/images").iterdir())[:2]
    images = torch.stack(
        [torch.from_numpy(np.array(Image.open(file).convert("L").resize((224, 224)))) for file in files]
    )
    x = model.preprocess(images)
    network = model.backbone
    with torch.no_grad():
        targets = network(x).argmax(1)
    found = compare(network, x, targets)
    print("ImageNet mobilenet_v2", found)
    assert all(found[method] < 1e-6 for method in LRP) and found["correlation"] >= 0.9999
    assert found["clip"] > 0.1
