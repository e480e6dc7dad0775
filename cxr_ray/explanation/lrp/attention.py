"""Attention in simple operations: matrix products by the uniform rule, softmax by its Taylor form (Achtibat et al. 2024)."""
# N images, S and T tokens, E width, J heads

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ray.explanation.lrp.rules import LRP_RULES, Rule, Unsupported

MULTIHEAD_OPTIONS = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")
"""Arguments of a `MultiheadAttention` after query, key and value."""


@LRP_RULES.register("scaled_dot_product_attention")
class DotProductAttention(Rule):
    """softmax(q k' scale + mask) v."""

    def expand(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """As torch documents it. Raises `Unsupported` for options that image networks do not use."""
        if is_causal or enable_gqa:
            raise Unsupported("causal or grouped attention")
        return attend(query, key, value, attn_mask, scale)[0]


@LRP_RULES.register(nn.MultiheadAttention)
class MultiheadAttention(Rule):
    """Projections, attention of every head, projection."""

    def expand(
        self,
        layer: nn.MultiheadAttention,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *options: Any,
        **named: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As the layer's forward. Raises `Unsupported` for options that image networks do not use."""
        given = dict(zip(MULTIHEAD_OPTIONS, options, strict=False)) | named
        unusual = [layer.bias_k, layer.bias_v, given.get("key_padding_mask"), layer.in_proj_weight is None or None]
        if any(x is not None for x in unusual) or layer.add_zero_attn or given.get("is_causal") or query.ndim != 3:
            raise Unsupported("MultiheadAttention with a padding mask, bias_k, add_zero_attn or widths that differ")
        if not layer.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        weights = layer.in_proj_weight.chunk(3)
        biases: Any = (None, None, None) if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).reshape(x.shape[0], x.shape[1], layer.num_heads, -1).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        out_NJSD, weights_NJST = attend(q, k, v, given.get("attn_mask"), None)
        out = out_NJSD.transpose(1, 2).reshape(query.shape)
        out = F.linear(out, layer.out_proj.weight, layer.out_proj.bias)
        if not layer.batch_first:
            out = out.transpose(0, 1)
        if not given.get("need_weights", True):
            return out, None
        return out, weights_NJST.mean(1) if given.get("average_attn_weights", True) else weights_NJST


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Values [.., S, D] weighted by softmax(q k' scale + mask), and the weights [.., S, T]."""
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = torch.softmax(scores, -1)
    return torch.matmul(weights, value), weights
