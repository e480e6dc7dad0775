"""Small networks with random weights, and inputs, for tests of explanation methods."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model

FAMILIES = {
    "alexnet": (64, "features.11"),
    "vgg11": (32, "features.19"),
    "vgg11_bn": (32, "features.27"),
    "googlenet": (64, "inception5b"),
    "resnet18": (64, "layer4"),
    "resnext50_32x4d": (64, "layer4"),
    "densenet121": (64, "features"),
    "squeezenet1_1": (64, "classifier.2"),
    "mobilenet_v2": (64, "features"),
    "mobilenet_v3_small": (64, "features"),
    "efficientnet_b0": (64, "features"),
    "shufflenet_v2_x0_5": (64, "conv5"),
    "mnasnet0_5": (64, "layers"),
    "regnet_y_400mf": (64, "trunk_output"),
    "convnext_tiny": (64, "features"),
    "inception_v3": (128, "Mixed_7c"),
    "swin_t": (64, "permute"),
    "swin_v2_t": (64, "permute"),
    "maxvit_t": (224, "blocks.3"),
    "vit_b_16": (32, "encoder.layers.encoder_layer_11.ln_1"),
}
"""torchvision's families: input size, and the layer of the last maps."""


def network(name: str, *, size: int, outputs: int = 5, seed: int = 0) -> nn.Module:
    """torchvision's `name` in eval mode, with random weights (a ViT's head too, which starts at zero)."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = (
        {"image_size": size}
        if name.startswith("vit")
        else {"input_size": (size, size)}
        if name.startswith("maxvit")
        else {}
    )
    if name in ("googlenet", "inception_v3"):
        settings = {"aux_logits": False, "init_weights": False}
    made: Any = get_model(name, weights=None, num_classes=outputs, **settings).eval()
    if name.startswith("vit"):
        nn.init.normal_(made.heads.head.weight, std=0.05)
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:  # without the images' statistics, maps vanish on their way through a random network
        for norm in norms:
            norm.momentum = None
        with torch.no_grad():
            made.train()(images(8, (size, size), channels=3, dtype=torch.float32))
    return made.eval()


def small_cnn(*, channels: int = 1, outputs: int = 3, seed: int = 0) -> nn.Module:
    """A chain with a batch norm, in-place activations and dropout, in train mode, double precision."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, outputs),
    ).double()


def images(
    n: int, size: tuple[int, int], *, channels: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Normalised inputs [n, channels, *size]: a gray image repeated in every channel."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, 1, *size), generator=generator, dtype=dtype).expand(-1, channels, -1, -1).contiguous()
