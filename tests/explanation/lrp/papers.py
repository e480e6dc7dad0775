"""The rules of the papers in numpy, with loops and every z_ij written out: relevance in, relevance out, one image at a time.

Bach et al. 2015 (epsilon, alpha-beta), Lapuschkin et al. 2016 (flat), Montavon et al. 2017 and 2019 (z^B, gamma), Achtibat et al. 2024
(softmax, matrix products, layer norm).
"""
# i inputs, j outputs, W [J, I], b [J], a [I], R relevance

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Array: TypeAlias = NDArray[np.float64]
Division: TypeAlias = Callable[[Array, Array, Array, Array], Array]
"""(a, W, b, R of the outputs) -> R of the inputs."""
TINY = 1e-9


def sign(x: float) -> float:
    return 1.0 if x >= 0.0 else -1.0


def epsilon(eps: float) -> Division:
    def divide(a: Array, W: Array, b: Array, R: Array) -> Array:
        out = np.zeros_like(a)
        for j in range(len(R)):
            z_i = [a[i] * W[j, i] for i in range(len(a))]
            z = sum(z_i) + b[j]
            for i in range(len(a)):
                out[i] += z_i[i] / (z + eps * sign(z)) * R[j]
        return out

    return divide


def alphabeta(alpha: float, beta: float) -> Division:
    def divide(a: Array, W: Array, b: Array, R: Array) -> Array:
        out = np.zeros_like(a)
        for j in range(len(R)):
            z_i = [a[i] * W[j, i] for i in range(len(a))]
            plus = sum(max(z, 0.0) for z in z_i) + max(b[j], 0.0)
            minus = sum(min(z, 0.0) for z in z_i) + min(b[j], 0.0)
            for i in range(len(a)):
                share = alpha * max(z_i[i], 0.0) / (plus + TINY) - beta * min(z_i[i], 0.0) / (minus - TINY)
                out[i] += share * R[j]
        return out

    return divide


def gamma(factor: float) -> Division:
    def divide(a: Array, W: Array, b: Array, R: Array) -> Array:
        out = np.zeros_like(a)
        for j in range(len(R)):
            z_i = [a[i] * W[j, i] for i in range(len(a))]
            z = sum(z_i) + b[j]

            def grown(value: float, z: float = z) -> float:
                return value + factor * value if value * sign(z) > 0.0 else value

            denominator = sum(grown(value) for value in z_i) + grown(b[j])
            for i in range(len(a)):
                out[i] += 0.0 if denominator == 0.0 else grown(z_i[i]) / denominator * R[j]
        return out

    return divide


def flat(connected: NDArray[np.bool_]) -> Division:
    """`connected` [J, I]: which inputs an output has; a weight may be zero by chance."""

    def divide(a: Array, W: Array, b: Array, R: Array) -> Array:
        out = np.zeros_like(a)
        for j in range(len(R)):
            for i in range(len(a)):
                out[i] += R[j] / connected[j].sum() if connected[j, i] else 0.0
        return out

    return divide


def box(low: float, high: float) -> Division:
    def divide(a: Array, W: Array, b: Array, R: Array) -> Array:
        out = np.zeros_like(a)
        for j in range(len(R)):
            z_i = [a[i] * W[j, i] - low * max(W[j, i], 0.0) - high * min(W[j, i], 0.0) for i in range(len(a))]
            for i in range(len(a)):
                out[i] += z_i[i] / (sum(z_i) + TINY) * R[j]
        return out

    return divide


def add(x: Array, y: Array, R: Array, eps: float) -> tuple[Array, Array]:
    """A sum of two terms by the epsilon rule."""
    z = x + y
    share = R / (z + eps * np.where(z >= 0.0, 1.0, -1.0))
    return x * share, y * share


def winner(a: Array, windows: list[list[int]], R: Array) -> Array:
    """Max pooling: everything to the first largest value of each window."""
    out = np.zeros_like(a)
    for j, window in enumerate(windows):
        out[max(window, key=lambda i: (a[i], -i))] += R[j]
    return out


def softmax(x: Array, R: Array) -> Array:
    """Achtibat et al. 2024, eq. 13."""
    s = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    return np.array([x[i] * (R[i] - s[i] * R.sum()) for i in range(len(x))])


def product(A: Array, V: Array, R: Array) -> tuple[Array, Array]:
    """O = A V, [J, I] and [I, P] (Achtibat et al. 2024, eq. 15)."""
    out, R_A, R_V = A @ V, np.zeros_like(A), np.zeros_like(V)
    for j in range(A.shape[0]):
        for i in range(A.shape[1]):
            for p in range(V.shape[1]):
                part = A[j, i] * V[i, p] / (2.0 * out[j, p]) * R[j, p]
                R_A[j, i] += part
                R_V[i, p] += part
    return R_A, R_V


def layer_norm(x: Array, weight: Array, bias: Array, eps_of_layer: float) -> tuple[Array, Array]:
    """(y, W) with y = W x + bias, where the deviation counts as fixed."""
    n = len(x)
    deviation = np.sqrt(((x - x.mean()) ** 2).mean() + eps_of_layer)
    W = np.array([[weight[j] * ((j == i) - 1.0 / n) / deviation for i in range(n)] for j in range(n)])
    return W @ x + bias, W


def convolution(
    layer: nn.Conv2d, shape: tuple[int, int, int]
) -> tuple[Array, Array, NDArray[np.bool_], tuple[int, int, int]]:
    """(W [J, I], b [J], which z_ij exist [J, I], output shape) of a convolution of an image [C, H, W], by loops."""
    weight = numbers(layer.weight)
    outputs, per_group, kernel_h, kernel_w = weight.shape
    channels, height, width = shape
    assert not isinstance(layer.padding, str)
    (step_h, step_w), (pad_h, pad_w), (hole_h, hole_w) = layer.stride, layer.padding, layer.dilation
    rows = (height + 2 * int(pad_h) - hole_h * (kernel_h - 1) - 1) // step_h + 1
    columns = (width + 2 * int(pad_w) - hole_w * (kernel_w - 1) - 1) // step_w + 1
    W = np.zeros((outputs * rows * columns, channels * height * width))
    connected = np.zeros(W.shape, dtype=bool)
    for o in range(outputs):
        first = o // (outputs // layer.groups) * per_group
        for r in range(rows):
            for c in range(columns):
                for k in range(per_group):
                    for u in range(kernel_h):
                        for v in range(kernel_w):
                            y, x = r * step_h - int(pad_h) + u * hole_h, c * step_w - int(pad_w) + v * hole_w
                            if 0 <= y < height and 0 <= x < width:
                                at = (o * rows + r) * columns + c, ((first + k) * height + y) * width + x
                                W[at], connected[at] = weight[o, k, u, v], True
    b = np.zeros(outputs) if layer.bias is None else numbers(layer.bias)
    return W, np.repeat(b, rows * columns), connected, (outputs, rows, columns)


def fold(W: Array, b: Array, norm: nn.BatchNorm2d) -> tuple[Array, Array]:
    """A convolution's matrix and bias with the batch norm after it."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = numbers(norm.weight) / np.sqrt(numbers(norm.running_var) + norm.eps)
    shift = numbers(norm.bias) - numbers(norm.running_mean) * scale
    positions = len(b) // len(scale)
    scale, shift = np.repeat(scale, positions), np.repeat(shift, positions)
    return W * scale[:, None], b * scale + shift


def numbers(x: Tensor) -> Array:
    return x.detach().double().numpy()
