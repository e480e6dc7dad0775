"""What the recorder sees, follows and refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ray.explanation.lrp import refusal
from cxr_ray.explanation.lrp.recorder import operation, record
from cxr_ray.explanation.lrp.rules import Unsupported
from cxr_ray.explanation.methods import attribute
from tests.explanation.lrp.networks import images, randomised


class Body(nn.Module):
    """A linear layer of 4 values, a function of the test, a linear layer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.function(self.first(x.flatten(1))))
        return out


def body(function: Any) -> Body:
    network = randomised(Body(function), 1)
    assert isinstance(network, Body)
    return network


class Doubled(torch.autograd.Function):
    """An operation with a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2.0

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 2.0


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    """An operation that no torch function shows."""
    return x * 2.0


def write_slice(x: Tensor) -> Tensor:
    x = x * 1.0
    x[:, 0] = 0.0
    return x


def write_into_zeros(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out += x
    return out


def write_through_view(x: Tensor) -> Tensor:
    x = x * 1.0
    x[:, :3].relu_()
    return x


REFUSED = [
    (torch.exp, r"torch\.exp \(in Body\)"),
    (lambda x: x / (1.0 + x.abs()), r"torch\.div by a tensor that depends on the image"),
    (lambda x: x * float(x.sum()), r"torch\.__float__|torch\.item"),
    (lambda x: x + x.detach(), r"torch\.detach"),
    (lambda x: x + x.data, r"torch\.data"),
    (lambda x: x + scripted(x), r"which is no torch function"),
    (lambda x: scripted(x), r"which is no torch function"),
    (lambda x: x + torch.sigmoid(x), r"torch\.add of a gate \(sigmoid\)"),
    (torch.sigmoid, r"torch\.linear of a gate \(sigmoid\)"),
    (write_slice, r"torch\.setitem"),
    (write_into_zeros, r"in place on a tensor that does not depend on the image"),
    (write_through_view, r"changed in place through another view"),
    (lambda x: F.dropout(x, 0.5), r"torch\.dropout in train mode; call \.eval\(\)"),
    (
        lambda x: F.batch_norm(x, None, None, training=True),
        r"a batch norm with statistics of the batch; call \.eval\(\)",
    ),
    (lambda x: F.threshold(x, 1.0, 0.0), r"torch\._threshold"),
    (lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True) * x, r"torch\.linalg_vector_norm"),
]


@pytest.mark.parametrize(("function", "message"), REFUSED)
def test_refuses_what_it_cannot_explain(function: Any, message: str) -> None:
    network, x = body(function), images(2, 1, 1, 2, 2)
    with pytest.raises(Unsupported, match=message):
        record(network, x)
    line = refusal(network, x)
    assert line is not None and "\n" not in line and line.startswith("LRP cannot explain Body: it uses ")
    assert "saliency and integrated_gradients" in line
    with pytest.raises(Unsupported, match="lrp_epsilon cannot explain Body"):
        attribute("lrp_epsilon", network, x, torch.tensor([1]))
    assert all(not m._forward_hooks and "forward" not in vars(m) for m in network.modules())


def doubled(x: Tensor) -> Tensor:
    x = x * 1.0
    x *= 2.0
    return x


def relu_without_result(x: Tensor) -> Tensor:
    x.relu_()
    return x


def old_name_of_new_value(x: Tensor) -> Tensor:
    y = x
    x += x
    return y


SERVED = [
    doubled,
    relu_without_result,
    old_name_of_new_value,
    lambda x: F.relu(x, True),
    lambda x: torch.relu_(x * 1.0),
    lambda x: 1.0 - x,
    lambda x: -x / 3.0,
    lambda x: x + Doubled.apply(x),
    lambda x: torch.stack([x, x, torch.zeros_like(x)], 1).sum(1),
    lambda x: x * (x > 0.0),
    lambda x: x.masked_fill(x < 0.0, 0.0),
    lambda x: torch.where(x > 0.0, x, torch.full_like(x, 0.1)),
    lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    lambda x: torch.stack([x, x], 1).sum(1),
    lambda x: x.reshape(len(x), 2, 3).transpose(1, 2).flatten(1),
    lambda x: x[:, [5, 4, 3, 2, 1, 0]],
    lambda x: F.dropout(x, 0.5, False) if x.ndim == 2 else x,
    lambda x: x.clamp(-0.5, 0.5),
    lambda x: torch.einsum("nd,de->ne", x, torch.eye(6).double()),
    lambda x: F.pad(x, (1, -1), value=0.5),
    lambda x: F.avg_pool1d(x[:, None], 3, 1, 1)[:, 0],
    lambda x: x + torch.arange(6.0),
    lambda x: x.unsqueeze(1).expand(-1, 2, -1).mean(1),
]  # fmt: skip


@pytest.mark.parametrize("function", SERVED)
def test_equals_gradient_times_input_where_all_is_piecewise_linear(function: Any) -> None:
    network, targets = body(function), torch.tensor([0, 1, 1])
    x = images(2, 3, 1, 2, 2).requires_grad_()
    out = network(x)
    (gradient,) = torch.autograd.grad(out.gather(1, targets[:, None]).sum(), x)
    found = attribute("lrp_epsilon", network, x.detach(), targets, epsilon=0.0)
    assert torch.allclose(found.logits, out.gather(1, targets[:, None])[:, 0])
    assert torch.allclose(found.maps, (gradient * x).sum(1), rtol=1e-10, atol=1e-12)
    assert found.certificate is not None and found.certificate.adds_up.all()


def test_steps_name_the_layer_that_made_them() -> None:
    tape = record(
        nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2)).double(),
        images(0, 1, 1, 2, 2),
    )
    assert [(step.layer, step.kind) for step in tape.steps] == [
        ("0", "flatten"), ("1.0", "linear"), ("1.1", "relu"), ("2", "linear")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "name"),
    [(torch.Tensor.add_, ("add", True)), (torch.add, ("add", False)), (torch.Tensor.__rsub__, ("rsub", False)),
     (torch.Tensor.__getitem__, ("getitem", False)), (torch.Tensor.shape.__get__, ("shape", False)), (F.relu, ("relu", False))],  # type: ignore[attr-defined]
)  # fmt: skip
def test_names_of_operations(function: Any, name: tuple[str, bool]) -> None:
    assert operation(function) == name


@pytest.mark.parametrize("output", [torch.ones(2, 3, 4), [torch.ones(2, 3)]])
def test_only_logits_are_explained(output: Any) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return output

    assert "not logits [N, outputs]" in str(refusal(Odd(), images(0, 1, 1, 2, 2)))


def test_an_output_without_the_image_is_refused() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 2)

    assert "an output that does not depend on the image" in str(refusal(Constant(), images(0, 1, 1, 2, 2)))


def test_a_sigmoid_at_the_end_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Sigmoid()).double()
    assert "a sigmoid as the output" in str(refusal(network, images(0, 1, 1, 2, 2)))
