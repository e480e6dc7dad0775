"""pneumonia_cnn: all shapes follow from the image size."""

import pytest
import torch

from cxr_ray import models
from cxr_ray.errors import UserError
from tests.fakes.networks import build, layer_shapes


def test_shapes_follow_from_the_image_size() -> None:
    network = build("pneumonia_cnn", outputs=2, size=(44, 30), options={"width": 3, "hidden": 7}).backbone
    assert layer_shapes(network, torch.zeros(1, 1, 44, 30)) == [
        [3, 44, 30], [3, 44, 30], [3, 22, 15], [6, 22, 15], [6, 22, 15], [6, 11, 7], [12, 11, 7], [12, 11, 7], [12, 5, 3],
        [180], [7], [7], [7], [2],
    ]  # fmt: skip
    assert models.parameter_count(network) == (9 * 3 + 3) + (27 * 6 + 6) + (54 * 12 + 12) + (180 * 7 + 7) + (7 * 2 + 2)
    with pytest.raises(UserError, match="at least 8 x 8, not 7 x 9"):
        build("pneumonia_cnn", size=(7, 9))
