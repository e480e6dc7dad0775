"""Sums of relevance per image, and the stabiliser of denominators."""
# N images

import torch
from torch import Tensor


def per_image(c: Tensor, a: Tensor, images: int) -> Tensor:
    """[N], sum of `c * a` for each of N = `images`. The first dimension of `c` is a multiple of N, image by image.

    `a` is broadcast to `c`. Half precision is summed in float32."""
    product = c * a
    if product.dtype in (torch.float16, torch.bfloat16):
        product = product.float()
    if product.shape[0] != images:
        product = product.reshape(images, -1)
    return product.sum(dim=tuple(range(1, product.ndim))) if product.ndim > 1 else product


def total(relevance: Tensor, images: int) -> Tensor:
    """[N], sum of `relevance` for each of N = `images`. Half precision is summed in float32."""
    if relevance.dtype in (torch.float16, torch.bfloat16):
        relevance = relevance.float()
    return relevance.reshape(images, -1).sum(1)


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """z / (z + epsilon sign z), with sign 0 = 1 (Bach et al. 2015, eq. 58): the share that the stabiliser leaves."""
    size = z.abs()
    return size / (size + epsilon)
