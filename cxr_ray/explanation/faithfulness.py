"""Does a map name what the model uses? Deletion and insertion of the most relevant blocks, against a random order."""
# N images, C channels, H height, W width, B blocks of an image, S steps of a curve

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from cxr_ray import losses
from cxr_ray.explanation.localisation import Maps
from cxr_ray.explanation.passes import explaining
from cxr_ray.labels import Task

Array = npt.NDArray[np.float64]
RANDOM = "random order"


class Blocks:
    """The order in which square blocks of an image are deleted or inserted.

    Blocks instead of pixels: single changed pixels are noise that no radiograph has, to which a network reacts at any place."""

    def __init__(self, size: tuple[int, int], side: int | None = None) -> None:
        """`side`: pixels; None: a sixteenth of the shorter side of the image, at least 1."""
        height, width = size
        self.side = side or max(1, min(size) // 16)
        across = -(-width // self.side)
        rows, columns = np.arange(height) // self.side, np.arange(width) // self.side
        self.number_HW = rows[:, None] * across + columns[None, :]
        self.count = int(self.number_HW.max()) + 1

    def by_relevance(self, maps_NHW: Maps) -> npt.NDArray[np.int64]:
        """Blocks of each image [N, B], the highest mean relevance first; equal ones in the order of their numbers."""
        pixels_B = np.bincount(self.number_HW.ravel(), minlength=self.count)
        flat = [np.bincount(self.number_HW.ravel(), weights=one.ravel(), minlength=self.count) for one in maps_NHW]
        return np.argsort(-np.stack(flat) / pixels_B, axis=1, kind="stable")

    def at_random(self, images: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """One random order for all images [N, B]."""
        return np.broadcast_to(rng.permutation(self.count), (images, self.count))


@dataclass(frozen=True)
class CurveSettings:
    """How curves of deletion and insertion are made."""

    task: Task
    """What the network's outputs are, and so how logits become probabilities."""
    side: int | None = None
    """Of the blocks, see `Blocks`."""
    steps: int = 16
    """Points of a curve after its first."""
    baseline: float | Literal["blur"] = "blur"
    """What replaces deleted pixels: the image blurred with a deviation of a tenth of its shorter side, or a value of the network's normalised
    input. Which replacement is right is open, and it decides the answer: on the phantom insertion favours integrated gradients only
    with black, and deletion with none (benchmarks/README.md)."""
    orders: int = 5
    """Random orders whose mean is compared with; the same ones for every image."""
    seed: int = 0


def probability_curve(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    order_NB: npt.NDArray[np.int64],
    settings: CurveSettings,
    *,
    insert: bool = False,
) -> Array:
    """Probability of the explained output [N, S + 1] while blocks are deleted in their order (`insert`: inserted into an empty image).

    The curve starts with no block changed and ends with all (Petsiuk et al. 2018, arXiv:1806.07421)."""
    blocks = Blocks((inputs.shape[-2], inputs.shape[-1]), settings.side)
    rank_NB = np.empty_like(order_NB)
    np.put_along_axis(rank_NB, order_NB, np.broadcast_to(np.arange(blocks.count), order_NB.shape), axis=1)
    curve = []
    with explaining(network, inputs, targets) as (x, target), torch.no_grad():
        empty = _blurred(x) if settings.baseline == "blur" else torch.full_like(x, settings.baseline)
        rank_NHW = torch.from_numpy(rank_NB[:, blocks.number_HW]).to(x.device)
        for step in range(settings.steps + 1):
            changed = (rank_NHW < round(step * blocks.count / settings.steps))[:, None]
            image = torch.where(changed == insert, x, empty)
            found = losses.probabilities(network(image).float(), task=settings.task)
            curve.append(found.gather(1, target[:, None]).squeeze(1).double().cpu().numpy())
    return np.stack(curve, axis=1)


def area_under(curve_NS: Array) -> Array:
    """Area under each curve [N] over the changed share of the image from 0 to 1, by trapezoids."""
    return np.asarray(((curve_NS[:, 1:] + curve_NS[:, :-1]) / 2).mean(axis=1))


def faithfulness(
    network: nn.Module, inputs: Tensor, targets: Tensor, maps: Mapping[str, Maps], settings: CurveSettings
) -> dict[str, dict[str, Array]]:
    """Areas under the deletion and insertion curves of each image: method -> {deletion [N], insertion [N]}, and those of `RANDOM`.

    A faithful map deletes what matters first (a small area) and inserts it first (a large one). `maps`: method to [N, H, W]."""
    blocks = Blocks((inputs.shape[-2], inputs.shape[-1]), settings.side)
    rng = np.random.default_rng(settings.seed)
    orders = {RANDOM: [blocks.at_random(len(inputs), rng) for _ in range(settings.orders)]}
    orders |= {name: [blocks.by_relevance(each)] for name, each in maps.items()}
    found: dict[str, dict[str, Array]] = {}
    for name, each in orders.items():
        found[name] = {}
        for kind in ("deletion", "insertion"):
            curves = [
                probability_curve(network, inputs, targets, order, settings, insert=kind == "insertion")
                for order in each
            ]
            found[name][kind] = np.mean([area_under(curve) for curve in curves], axis=0)
    return found


def _blurred(x: Tensor) -> Tensor:
    sigma = 0.1 * min(x.shape[-2:])
    side = 2 * min(round(3 * sigma), min(x.shape[-2:]) - 1) + 1
    return gaussian_blur(x, [side, side], [sigma, sigma])
