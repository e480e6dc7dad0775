"""What a convolutional network computes, step by step: convolution, pooling, Sobel edges, a network's own filters and feature maps.

The arithmetic is plain numpy, for numbers that a reader can check by hand; only filters and feature maps come from a network."""
# K kernel side, C channels, H x W pixels, F filters

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_ray.errors import UserError

Array: TypeAlias = npt.NDArray[np.float64]
Pool = Literal["max", "mean"]

VERTICAL_EDGES = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))
"""Sobel's kernel of the horizontal derivative: it responds to vertical edges."""
HORIZONTAL_EDGES = ((-1, -2, -1), (0, 0, 0), (1, 2, 1))
"""Sobel's kernel of the vertical derivative: it responds to horizontal edges."""
DIAGONAL_EDGES = ((-2, -1, 0), (-1, 0, 1), (0, 1, 2))
"""A kernel of diagonal edges: from dark at the top left to bright at the bottom right."""
STAGES = 6
"""Feature maps that are shown at most: the last one of each size."""


def convolve(image_HW: npt.ArrayLike, kernel_KK: npt.ArrayLike, *, stride: int = 1, padding: int = 0) -> Array:
    """The cross-correlation that networks call convolution: the kernel is not flipped; `padding` zeros on every side.

    [(H + 2 padding - K) // stride + 1, ...]. Raises `UserError` if the kernel is larger than the padded image."""
    windows_YXKK = _windows(image_HW, np.asarray(kernel_KK, np.float64).shape, stride=stride, padding=padding, fill=0.0)
    return np.einsum("yxkl,kl->yx", windows_YXKK, np.asarray(kernel_KK, np.float64))


def pool(
    image_HW: npt.ArrayLike, size: int = 2, *, kind: Pool = "max", stride: int | None = None, padding: int = 0
) -> Array:
    """The largest value, or the mean, of each window of `size` x `size`; `stride` is `size` by default.

    Padding never is a maximum; in a mean it counts as 0, as in torch. Raises `UserError` if no window fits, and, as torch, if
    padding is more than half of the window."""
    if padding * 2 > size:
        raise UserError(f"padding {padding} is more than half of the window of {size}")
    if kind not in ("max", "mean"):
        raise UserError(f"pooling is max or mean, not {kind!r}")
    windows_YXKK = _windows(
        image_HW, (size, size), stride=stride or size, padding=padding, fill=-np.inf if kind == "max" else 0.0
    )
    return windows_YXKK.max(axis=(2, 3)) if kind == "max" else windows_YXKK.mean(axis=(2, 3))


def pooled(
    image_HW: npt.ArrayLike,
    times: int = 3,
    size: int = 2,
    *,
    kind: Pool = "max",
    stride: int | None = None,
    padding: int = 0,
) -> list[Array]:
    """The image after one, two, ... `times` poolings; fewer if it becomes smaller than the window."""
    out: list[Array] = []
    current = np.asarray(image_HW, np.float64)
    while len(out) < times and min(current.shape) + 2 * padding >= size:
        current = pool(current, size, kind=kind, stride=stride, padding=padding)
        out.append(current)
    if not out:
        raise UserError(f"a window of {size} is larger than the image of {current.shape[0]} x {current.shape[1]} px")
    return out


def read_kernel(text: str) -> Array:
    """A kernel [K, L] from text: rows such as `[[0,1],[-1,0]]` or `0,1;-1,0`, or `diagonal`. Raises `UserError`."""
    if text == "diagonal":
        return np.asarray(DIAGONAL_EDGES, np.float64)
    example = "write rows of numbers, such as '0,1;-1,0', or diagonal"
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [row.split(",") for row in text.split(";")]
        kernel = np.asarray(rows, np.float64)
    except ValueError:
        raise UserError(f"cannot read the kernel {text!r}; {example}") from None
    if kernel.ndim != 2 or not kernel.size or not np.isfinite(kernel).all():
        raise UserError(f"the kernel {text!r} is not a matrix of finite numbers; {example}")
    return kernel


def first_filters(network: nn.Module) -> npt.NDArray[np.float32]:
    """The kernels [F, K, L] of the first convolution, summed over its input channels, which are equal for a gray image.

    Raises `UserError` if the network has no convolution."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().float().sum(dim=1).cpu().numpy()
    raise UserError("the network has no convolution, so it has no filters to show")


@dataclass(frozen=True)
class Stage:
    """The feature maps of one layer."""

    name: str
    """Of the module."""
    maps: npt.NDArray[np.float32]
    """[C, H, W]"""


def feature_maps(network: nn.Module, input_1CHW: Tensor, *, most: int = STAGES) -> list[Stage]:
    """The feature maps of one image after each stage: the last layer's output of each size, from the input on.

    `input_1CHW` is a preprocessed image [1, C, H, W]. Raises `UserError` if no layer gives maps."""
    found: dict[tuple[int, int], Stage] = {}
    names = {module: name for name, module in network.named_modules()}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            size = (int(output.shape[2]), int(output.shape[3]))
            found.pop(size, None)
            found[size] = Stage(names[module], output[0].detach().float().cpu().numpy())

    leaves = [module for module in network.modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(record) for module in leaves]
    try:
        with torch.no_grad():
            network(input_1CHW)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UserError("no layer of the network gives feature maps of the image")
    stages = sorted(found.values(), key=lambda stage: -stage.maps.shape[1] * stage.maps.shape[2])
    return stages[:most]


def _windows(image_HW: npt.ArrayLike, shape: Sequence[int], *, stride: int, padding: int, fill: float) -> Array:
    """Windows [Y, X, K, L] of the padded image."""
    image = np.asarray(image_HW, np.float64)
    if image.ndim != 2:
        raise UserError(f"an image is [H, W], not {list(image.shape)}")
    if stride < 1 or padding < 0:
        raise UserError(f"a stride is at least 1 and padding at least 0, got {stride} and {padding}")
    padded = np.pad(image, padding, constant_values=fill)
    if shape[0] < 1 or shape[0] > padded.shape[0] or shape[1] > padded.shape[1]:
        raise UserError(
            f"a window of {shape[0]} x {shape[1]} does not fit into {padded.shape[0]} x {padded.shape[1]} pixels"
        )
    windows: Array = np.lib.stride_tricks.sliding_window_view(padded, tuple(shape))
    return windows[::stride, ::stride]
