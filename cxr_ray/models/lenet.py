"""LeNet, a network for teaching, for images of at least 12 x 12 pixels."""

from typing import ClassVar

from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.models.family import RELEVANCE, Family
from cxr_ray.registry import MODELS

SMALLEST = 12


class LeNetOptions(Family):
    """LeNet has no options of its own."""

    natural_size: ClassVar[tuple[int, int]] = (28, 28)
    explained_by: ClassVar[tuple[str, ...]] = RELEVANCE


class LeNet(nn.Module):
    """Two convolutions with average pooling, three linear layers (LeCun et al. 1998, with ReLU instead of the sigmoid).

    [N, channels, H, W] -> 6 x H x W -> 6 x H/2 x W/2 -> 16 x (H/2 - 4) x (W/2 - 4) -> 16 x (H/2 - 4)/2 x (W/2 - 4)/2
    -> 120 -> 84 -> [N, outputs], each half rounded down; for 28 x 28 the first linear layer has 16 x 5 x 5 = 400 inputs."""

    def __init__(self, *, outputs: int, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        height, width = ((side // 2 - 4) // 2 for side in image_size)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.ReLU(),
            nn.AvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * height * width, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] to logits [N, outputs]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


@MODELS.register("lenet", LeNetOptions)
def lenet(*, outputs: int, channels: int, image_size: tuple[int, int], options: LeNetOptions) -> nn.Module:
    """LeNet: 6 and 16 maps of 5 x 5 with average pooling, then 120-84; the first linear layer depends on the input size.

    Raises `UserError` for images smaller than 12 x 12."""
    if min(image_size) < SMALLEST:
        raise UserError(
            f"lenet needs images of at least {SMALLEST} x {SMALLEST}, not {image_size[0]} x {image_size[1]}: raise data.image_size"
        )
    return LeNet(outputs=outputs, channels=channels, image_size=image_size)
