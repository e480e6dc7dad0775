"""Methods from the gradient of the logit by the input: saliency, gradient x input, SmoothGrad, integrated gradients."""
# N images, C channels, H height, W width, S samples or steps

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from cxr_ray.explanation.methods import METHODS, Attribution
from cxr_ray.explanation.passes import explaining, input_gradient, logits_of
from cxr_ray.registry import Options


class SaliencyOptions(Options):
    """Options of saliency."""

    channels: Literal["max", "sum"] = "max"
    """How absolute gradients of a pixel's channels are joined. max: Simonyan et al. 2014. No difference for one channel."""


@METHODS.register("saliency", SaliencyOptions)
def saliency(network: nn.Module, inputs: Tensor, targets: Tensor, options: SaliencyOptions) -> Attribution:
    """Absolute gradient, the largest of a pixel's channels; never negative (Simonyan et al. 2014, arXiv:1312.6034)."""
    with explaining(network, inputs, targets) as (x, target):
        found, logits = input_gradient(network, x, target)
        absolute = found.abs()
        return Attribution(absolute.amax(1) if options.channels == "max" else absolute.sum(1), logits)


@METHODS.register("gradient")
def gradient(network: nn.Module, inputs: Tensor, targets: Tensor, options: Options) -> Attribution:
    """Signed gradient of the logit by a pixel's gray value: the sum over channels, which repeat the gray image."""
    with explaining(network, inputs, targets) as (x, target):
        found, logits = input_gradient(network, x, target)
        return Attribution(found.sum(1), logits)


@METHODS.register("gradient_x_input")
def gradient_x_input(network: nn.Module, inputs: Tensor, targets: Tensor, options: Options) -> Attribution:
    """Gradient times the normalised input, summed over channels (Shrikumar et al. 2016, arXiv:1605.01713)."""
    with explaining(network, inputs, targets) as (x, target):
        found, logits = input_gradient(network, x, target)
        return Attribution((found * x).sum(1), logits)


class SmoothGradOptions(Options):
    """Options of SmoothGrad."""

    samples: int = Field(default=25, ge=1)
    """Noisy copies of each image."""
    noise: float = Field(default=0.15, ge=0.0)
    """Standard deviation of the noise, as a fraction of each image's range (Smilkov et al.: 0.1 to 0.2)."""
    of: Literal["gradient", "absolute", "squared"] = "gradient"
    """What is averaged: the signed gradient, its absolute value, or its square (SmoothGrad-Squared, Hooker et al. 2019)."""
    seed: int = Field(default=0, ge=0)
    """Seed of the noise."""


@METHODS.register("smoothgrad", SmoothGradOptions)
def smoothgrad(network: nn.Module, inputs: Tensor, targets: Tensor, options: SmoothGradOptions) -> Attribution:
    """Mean gradient of noisy copies of the image (Smilkov et al. 2017, arXiv:1706.03825).

    Every image gets the same noise, so that a map depends neither on the other images of a batch nor on their order. The noise
    is equal in all channels: a noisy gray image is gray."""
    with explaining(network, inputs, targets) as (x, target):
        scale = options.noise * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
        total = torch.zeros_like(x[:, 0])
        for noise in unit_noise(options.samples, (x.shape[-2], x.shape[-1]), seed=options.seed):
            found, _ = input_gradient(network, x + scale * noise.to(x), target)
            one = found.sum(1)
            total += one if options.of == "gradient" else one.abs() if options.of == "absolute" else one.square()
        return Attribution(total / options.samples, logits_of(network, x, target))


def unit_noise(samples: int, size: tuple[int, int], *, seed: int) -> Iterator[Tensor]:
    """Normal noise of deviation 1 [1, H, W] for each of SmoothGrad's samples: equal on every device, and for any number of samples."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(samples):
        yield torch.randn((1, *size), generator=generator, dtype=torch.float64)


class IntegratedGradientsOptions(Options):
    """Options of integrated gradients."""

    steps: int = Field(default=50, ge=1)
    """Points of the path at which the gradient is computed."""
    quadrature: Literal["gauss_legendre", "midpoint", "trapezoid", "left", "right"] = "gauss_legendre"
    """Rule of integration over the path."""
    baseline: float | None = None
    """Value of the network's normalised input where the path starts. None: black as the image shows it, its lowest value, which a
    radiograph reaches outside the body. `passes.gray_level` gives the value of any gray level; 0 is the mean gray of the normalisation."""


@METHODS.register("integrated_gradients", IntegratedGradientsOptions)
def integrated_gradients(
    network: nn.Module, inputs: Tensor, targets: Tensor, options: IntegratedGradientsOptions
) -> Attribution:
    """Gradient integrated from a black image to the image, times their difference (Sundararajan et al. 2017, arXiv:1703.01365).

    Completeness: a map sums to the logit minus that of the baseline, up to the error of the quadrature. Pixels as black as the
    baseline have no relevance by definition."""
    with explaining(network, inputs, targets) as (x, target):
        lowest = x.amin((1, 2, 3), keepdim=True)
        start = lowest if options.baseline is None else torch.full_like(lowest, options.baseline)
        difference, total = x - start, torch.zeros_like(x)
        for position, weight in zip(*path(options.quadrature, options.steps), strict=True):
            found, _ = input_gradient(network, start + position * difference, target)
            total += weight * found
        return Attribution((total * difference).sum(1), logits_of(network, x, target))


def path(quadrature: str, steps: int) -> tuple[list[float], list[float]]:
    """Positions [S] from 0 (baseline) to 1 (image) and weights [S] of a rule of integration; weights sum to 1."""
    if quadrature == "gauss_legendre":
        position, weight = np.polynomial.legendre.leggauss(steps)
        return ((position + 1) / 2).tolist(), (weight / 2).tolist()
    at = np.arange(steps)
    even = np.full(steps, 1 / steps)
    if quadrature == "trapezoid":
        if steps == 1:
            return [0.5], [1.0]
        weight = np.full(steps, 1 / (steps - 1))
        weight[[0, -1]] /= 2
        return np.linspace(0, 1, steps).tolist(), weight.tolist()
    shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[quadrature]
    return ((at + shift) / steps).tolist(), even.tolist()
