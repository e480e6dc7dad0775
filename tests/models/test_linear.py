"""The linear model: standardised, in float32 in any precision, and the same function of raw values."""

import torch

from cxr_ray.models.create import create_model
from cxr_ray.models.linear import Linear


def test_the_same_function_of_raw_values() -> None:
    torch.manual_seed(0)
    model = Linear(outputs=3, inputs=4).double()
    values = torch.randn(5, 1, 1, 4, dtype=torch.float64) * 7 + 30
    assert not model(values).any()
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.head.bias)
    model.standardize(torch.full((4,), 30.0), torch.tensor([7.0, 6.0, 5.0, 8.0]))
    weight, bias = model.of_raw_values()
    by_hand = torch.stack(
        [
            sum(model.head.weight[j, d] * (row[d] - 30) / (7, 6, 5, 8)[d] for d in range(4)) + model.head.bias[j]
            for row in values[:, 0, 0]
            for j in range(3)
        ]
    ).reshape(5, 3)
    found = Linear.forward(model.float(), values)
    torch.testing.assert_close(found.double(), by_hand, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(values.flatten(1) @ weight.double().T + bias.double(), by_hand, atol=1e-3, rtol=1e-4)


def test_no_low_precision() -> None:
    model = Linear(outputs=1, inputs=2)
    torch.nn.init.ones_(model.head.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.tensor([[1.0, 2.0**-12]])).item() == 1 + 2.0**-12


def test_pixels_too() -> None:
    model = create_model("linear", 2, image_size=16)
    assert model(torch.zeros((3, 16, 16), dtype=torch.uint8)).shape == (3, 2)
