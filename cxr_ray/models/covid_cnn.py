"""covid_cnn: the small CNN of the binary COVID notebook."""

from typing import ClassVar

from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.models.family import RELEVANCE, Family
from cxr_ray.registry import MODELS

SMALLEST = 12


class CovidCnnOptions(Family):
    """covid_cnn has no options of its own."""

    natural_size: ClassVar[tuple[int, int]] = (224, 224)
    explained_by: ClassVar[tuple[str, ...]] = RELEVANCE


class CovidCnn(nn.Module):
    """Three convolutions of 3 x 3 without padding, pooling to 2 x 2, two linear layers.

    From 224 x 224: 32 x 222 x 222 -> 64 x 220 x 220 -> pool 64 x 110 x 110 -> 128 x 108 x 108 -> pool 128 x 54 x 54
    -> adaptive pool 128 x 2 x 2 = 512 -> 64 -> outputs."""

    def __init__(self, *, outputs: int, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, kernel_size=3),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Conv2d(64, 128, kernel_size=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.AdaptiveAvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(64, outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] to logits [N, outputs]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


@MODELS.register("covid_cnn", CovidCnnOptions)
def covid_cnn(*, outputs: int, channels: int, image_size: tuple[int, int], options: CovidCnnOptions) -> nn.Module:
    """Three convolutions of 32, 64 and 128 maps, max pooling, adaptive average pooling to 2 x 2, then 512-64.

    Raises `UserError` for images smaller than 12 x 12."""
    if min(image_size) < SMALLEST:
        raise UserError(
            f"covid_cnn needs images of at least {SMALLEST} x {SMALLEST}, not {image_size[0]} x {image_size[1]}: raise data.image_size"
        )
    return CovidCnn(outputs=outputs, channels=channels)
