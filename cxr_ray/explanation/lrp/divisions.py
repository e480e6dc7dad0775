"""How an affine layer z = W a + b divides the relevance of its outputs among its inputs.

With z_ij = a_i w_ij, R_j = z_j c_j the relevance of output j, and w+ = max(w, 0), w- = min(w, 0). A division is a frozen
class; `divide` returns coefficients c_i = R_i / a_i, which are finite where a_i is zero.
"""
# N images, i inputs, j outputs

from dataclasses import dataclass

import torch
from torch import Tensor

from cxr_ray.explanation.lrp.affine import Affine
from cxr_ray.explanation.lrp.rules import Share
from cxr_ray.explanation.lrp.sums import per_image, stabilised, total

TINY = 1e-9
"""Stabiliser of denominators of one sign, as captum's: only an empty part meets it."""


class Division:
    """Base class."""

    def divide(self, layer: Affine, c: Tensor, images: int) -> Share:
        """The inputs' share of the relevance z * c of the outputs."""
        raise NotImplementedError


@dataclass(frozen=True)
class Epsilon(Division):
    """R_i = sum_j z_ij / (z_j + epsilon sign z_j) R_j (Bach et al. 2015, eq. 58)."""

    epsilon: float

    def divide(self, layer: Affine, c: Tensor, images: int) -> Share:
        """Per output: z = inputs + b, and z c = z c' + z (c - c') with the damped coefficient c'."""
        damped = c * stabilised(layer.z, self.epsilon) if self.epsilon > 0.0 else c
        return Share(
            [layer.backward(damped, layer.weight)],
            bias=layer.bias_sum(layer.bias, damped, images),
            epsilon=per_image(c - damped, layer.z, images) if self.epsilon > 0.0 else 0.0,
        )


@dataclass(frozen=True)
class AlphaBeta(Division):
    """R_i = sum_j (alpha z+_ij / z+_j - beta z-_ij / z-_j) R_j with alpha - beta = 1 (Bach et al. 2015, eq. 60).

    z+_j = sum_i z+_ij + b+_j and z-_j likewise. Summed over i and the bias, output j gives alpha R_j - beta R_j = R_j if both
    parts are non-zero: conserved. Without positive contributions the term alpha R_j has no one to go to, without negative ones
    -beta R_j: the certificate counts it under epsilon, since the denominator then is nothing but the stabiliser. So an output
    without a negative part passes alpha R_j on, and `epsilon` holds -beta R_j. Biases take
    sum_j (alpha b+_j / z+_j - beta b-_j / z-_j) R_j."""

    alpha: float
    beta: float

    def divide(self, layer: Affine, c: Tensor, images: int) -> Share:
        """Products of a sign come from inputs and weights of equal or of opposite signs."""
        relevance = layer.z * c
        up, down = layer.weight.clamp(min=0.0), layer.weight.clamp(max=0.0)
        bias_up = None if layer.bias is None else layer.bias.clamp(min=0.0)
        bias_down = None if layer.bias is None else layer.bias.clamp(max=0.0)
        plus = signed_part(layer, up, down)
        if bias_up is not None:
            plus = plus + layer.along_outputs(bias_up)
        s_plus = self.alpha * relevance / (plus + TINY)
        absorbed = total(relevance, images) - per_image(s_plus, plus, images)
        coefficients = back_by_sign(layer, s_plus, up, down)
        bias = layer.bias_sum(bias_up, s_plus, images)
        if self.beta > 0.0:
            minus = signed_part(layer, down, up)
            if bias_down is not None:
                minus = minus + layer.along_outputs(bias_down)
            s_minus = -self.beta * relevance / (minus - TINY)
            absorbed = absorbed - per_image(s_minus, minus, images)
            coefficients = coefficients + back_by_sign(layer, s_minus, down, up)
            bias = bias + layer.bias_sum(bias_down, s_minus, images)
        return Share([coefficients], bias=bias, epsilon=absorbed)


@dataclass(frozen=True)
class Gamma(Division):
    """R_i = sum_j (z_ij + gamma z+_ij) / (z_j + gamma z+_j) R_j (Montavon et al. 2019, table 10.1).

    Written for outputs above 0; below 0 the parts below 0 are the ones that grow, so that no denominator crosses 0."""

    gamma: float

    def divide(self, layer: Affine, c: Tensor, images: int) -> Share:
        """The bias counts as an input of value 1."""
        up, down = layer.weight.clamp(min=0.0), layer.weight.clamp(max=0.0)
        plus = signed_part(layer, up, down)
        if layer.bias is not None:
            plus = plus + layer.along_outputs(layer.bias.clamp(min=0.0))
        above = layer.z >= 0.0
        grown = layer.z + self.gamma * torch.where(above, plus, layer.z - plus)
        s = c * torch.where(grown == 0.0, 1.0, layer.z / grown)
        s_plus, s_minus = torch.where(above, s, 0.0), torch.where(above, 0.0, s)
        coefficients = layer.backward(s, layer.weight) + self.gamma * back_by_sign(layer, s_plus, up, down)
        if bool((s_minus != 0.0).any()):
            coefficients = coefficients + self.gamma * back_by_sign(layer, s_minus, down, up)
        if layer.bias is None:
            return Share([coefficients])
        bias = layer.bias_sum(layer.bias, s, images)
        bias = bias + self.gamma * layer.bias_sum(layer.bias.clamp(min=0.0), s_plus, images)
        bias = bias + self.gamma * layer.bias_sum(layer.bias.clamp(max=0.0), s_minus, images)
        return Share([coefficients], bias=bias)


@dataclass(frozen=True)
class Flat(Division):
    """Every input of an output gets the same (Lapuschkin et al. 2016): R_i = sum_j R_j / (number of inputs of j).

    For the layer on the pixels. The bias gets nothing."""

    def divide(self, layer: Affine, c: Tensor, images: int) -> Share:
        """Pixels of the padding are no inputs."""
        ones = torch.ones_like(layer.weight)
        count = layer.forward(torch.ones_like(layer.a[:1]), ones)
        return Share([], relevance=layer.backward(layer.z * c / count, ones))


@dataclass(frozen=True)
class Box(Division):
    """z^B, for pixels between `low` and `high` (Montavon et al. 2017): shares of x_i w_ij - low w+_ij - high w-_ij >= 0.

    The bias gets nothing."""

    low: float | None = None
    """Black in the network's input; None: the lowest value of each image."""
    high: float | None = None
    """White; None: the highest."""

    def divide(self, layer: Affine, c: Tensor, images: int) -> Share:
        """See the class."""
        x, up, down = layer.a, layer.weight.clamp(min=0.0), layer.weight.clamp(max=0.0)
        dims = tuple(range(1, x.ndim))
        low = x.amin(dims, keepdim=True).expand_as(x) if self.low is None else torch.full_like(x, self.low)
        high = x.amax(dims, keepdim=True).expand_as(x) if self.high is None else torch.full_like(x, self.high)
        z = layer.forward(x, layer.weight) - layer.forward(low, up) - layer.forward(high, down)
        relevance = layer.z * c
        s = relevance / (z + TINY)
        out = x * layer.backward(s, layer.weight) - low * layer.backward(s, up) - high * layer.backward(s, down)
        absorbed = total(relevance, images) - per_image(s, z, images)
        return Share([], relevance=out, epsilon=absorbed)


def signed_part(layer: Affine, same: Tensor, other: Tensor) -> Tensor:
    """Sums of the z_ij of one sign, without bias.

    `same`: the part of the weights that makes them from positive inputs; `other`: from negative ones."""
    part = layer.forward(layer.a.clamp(min=0.0), same)
    if bool((layer.a < 0.0).any()):
        part = part + layer.forward(layer.a.clamp(max=0.0), other)
    return part


def back_by_sign(layer: Affine, s: Tensor, same: Tensor, other: Tensor) -> Tensor:
    """Coefficients of the inputs if the z_ij of one sign are multiplied by `s`; the weights as for `signed_part`."""
    coefficients, negative = layer.backward(s, same), layer.a < 0.0
    if not bool(negative.any()):
        return coefficients
    return torch.where(negative, layer.backward(s, other), coefficients)
