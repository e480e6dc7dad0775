"""pneumonia_cnn: a small CNN for teaching whose shapes all follow from the image size."""

from itertools import pairwise
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.models.family import RELEVANCE, Family
from cxr_ray.registry import MODELS

SMALLEST = 8


class PneumoniaCnnOptions(Family):
    """Width of the network."""

    explained_by: ClassVar[tuple[str, ...]] = RELEVANCE

    width: int = Field(default=16, ge=1)
    """Maps of the first convolution; the second has twice as many, the third four times."""
    hidden: int = Field(default=64, ge=1)
    """Outputs of the first linear layer."""


class PneumoniaCnn(nn.Module):
    """Three blocks of convolution 3 x 3 with padding 1, ReLU and max pooling 2; then two linear layers with dropout 0.5 between.

    [N, channels, H, W] -> w x H/2 x W/2 -> 2w x H/4 x W/4 -> 4w x H/8 x W/8 (each half rounded down) -> flat -> hidden ->
    [N, outputs]. With w = 16 and 224 x 224 the first linear layer has 64 x 28 x 28 = 50,176 inputs and nearly all weights:
    the network shows how much a flattened layer costs compared with adaptive pooling."""

    def __init__(
        self, *, outputs: int, channels: int, image_size: tuple[int, int], width: int = 16, hidden: int = 64
    ) -> None:
        super().__init__()
        height, breadth = (side // 2 // 2 // 2 for side in image_size)
        maps = [channels, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(maps):
            layers += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(maps[-1] * height * breadth, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] to logits [N, outputs]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


@MODELS.register("pneumonia_cnn", PneumoniaCnnOptions)
def pneumonia_cnn(
    *, outputs: int, channels: int, image_size: tuple[int, int], options: PneumoniaCnnOptions
) -> nn.Module:
    """Three convolutions of 16, 32 and 64 maps with max pooling, then 64: a CNN for teaching whose shapes follow from the image size.

    Raises `UserError` for images smaller than 8 x 8."""
    if min(image_size) < SMALLEST:
        raise UserError(
            f"pneumonia_cnn needs images of at least {SMALLEST} x {SMALLEST}, not {image_size[0]} x {image_size[1]}: raise data.image_size"
        )
    return PneumoniaCnn(
        outputs=outputs, channels=channels, image_size=image_size, width=options.width, hidden=options.hidden
    )
