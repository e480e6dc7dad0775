"""Attention in simple operations: equal to torch's in value, whatever the layout and the mask."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ray.errors import UserError
from cxr_ray.explanation.lrp import refusal
from cxr_ray.explanation.methods import attribute
from tests.explanation.lrp.networks import images, randomised


class Attending(nn.Module):
    """Four tokens of four values, attention, their mean."""

    def __init__(self, mask: Tensor | None = None, weights: bool = False, **options: bool) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True, **options), nn.Linear(4, 2)
        self.mask, self.weights = mask, weights

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), 4, 4)
        y, weights = self.attention(x, x, x, need_weights=self.weights, attn_mask=self.mask)
        if self.weights:
            y = y + weights
        out: Tensor = self.head(y.mean(1))
        return out


@pytest.mark.parametrize(
    "network",
    [Attending(), Attending(bias=False), Attending(torch.eye(4).bool()), Attending(images(0, 4, 4)), Attending(weights=True)],
)  # fmt: skip
def test_layers_give_the_same_logits(network: Attending) -> None:
    randomised(network, 1)
    x, target = images(2, 3, 1, 4, 4), torch.tensor([0, 1, 1])
    found = attribute("lrp_epsilon", network, x, target)
    assert torch.allclose(found.logits, network(x)[torch.arange(3), target], rtol=1e-12)
    assert found.certificate is not None and found.certificate.adds_up.all() and torch.isfinite(found.maps).all()


@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_function_gives_the_same_logits(scale: float | None) -> None:
    class Functional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.reshape(len(x), 4, 4)
            return F.scaled_dot_product_attention(x, x * 0.5, x, scale=scale).mean(1)

    x, target = images(2, 3, 1, 4, 4), torch.tensor([0, 1, 3])
    found = attribute("lrp_epsilon", Functional(), x, target)
    assert torch.allclose(found.logits, Functional()(x)[torch.arange(3), target], rtol=1e-12)


def test_unusual_options_are_refused() -> None:
    network = randomised(Attending(add_zero_attn=True), 1)
    assert "MultiheadAttention with a padding mask" in str(refusal(network, images(2, 1, 1, 4, 4)))


def test_an_expansion_with_other_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from cxr_ray.explanation.lrp import attention

    monkeypatch.setattr(attention, "attend", lambda q, k, v, mask, scale: (v + 1.0, k))
    with pytest.raises(UserError, match="whose expansion gives other logits"):
        attribute("lrp_epsilon", randomised(Attending(), 1), images(2, 2, 1, 4, 4), torch.tensor([0, 1]))
