"""Teaching figures of a trained model and one image: filters next to Sobel edges, feature maps after each stage, poolings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray.errors import UserError, unknown
from cxr_ray.explanation import teaching
from cxr_ray.explanation.explainer import check_finite
from cxr_ray.inference.predictor import Predictor
from cxr_ray.plotting import plots, teaching_plots
from cxr_ray.plotting.plots import Figure
from cxr_ray.report.render import file_name
from cxr_ray.storage.atomic import make_folder, write_atomic

NAMES = ("filters", "features", "pooling")
POOLINGS = 3


def draw(
    predictor: Predictor,
    gray_HW: npt.NDArray[Any],
    names: Sequence[str] = NAMES,
    *,
    kernel: str | None = None,
    pool: int = 2,
    stride: int | None = None,
    padding: int = 0,
) -> dict[str, Figure]:
    """Figures by name. `gray_HW`: an image of gray values 0 to 255.

    `kernel` (see `teaching.read_kernel`) is shown next to Sobel's two. `pool`, `stride` (default: `pool`) and `padding` are those of the
    poolings. Raises `UserError` for unknown names, for an ensemble, and for what does not fit the image or the network."""
    for name in names:
        if name not in NAMES:
            raise unknown("figure", name, NAMES)
    if len(predictor.members) > 1:
        raise UserError("an ensemble has no filters of its own: give one of its members")
    check_finite(predictor, predictor.run.path.name if predictor.run is not None else "the model")
    with torch.no_grad():
        input_1CHW = predictor.model.preprocess(predictor.model_images(gray_HW[None]))
    network, image = predictor.model.backbone, np.asarray(gray_HW, np.float64)
    out: dict[str, Figure] = {}
    if "filters" in names:
        kernels: dict[str, Any] = {
            "Sobel: vertical edges": np.asarray(teaching.VERTICAL_EDGES, float),
            "Sobel: horizontal edges": np.asarray(teaching.HORIZONTAL_EDGES, float),
        }
        if kernel is not None:
            own = "diagonal edges" if kernel == "diagonal" else "your kernel"
            kernels[own] = teaching.read_kernel(kernel)
        responses = {name: teaching.convolve(image, of) for name, of in kernels.items()}
        out["filters"] = teaching_plots.filters(image, kernels, responses, teaching.first_filters(network))
    if "features" in names:
        stages = [(stage.name, stage.maps) for stage in teaching.feature_maps(network, input_1CHW)]
        out["features"] = teaching_plots.features(image, stages)
    if "pooling" in names:
        step = pool if stride is None else stride
        if min(pool, step) < 1:
            raise UserError(f"a window and its stride are at least 1 pixel, got {pool} and {step}")
        pooled = {
            kind: teaching.pooled(image, POOLINGS, pool, kind=kind, stride=step, padding=padding)
            for kind in ("max", "mean")
        }
        settings = f"windows of {pool} × {pool}, stride {step}, padding {padding}"
        out["pooling"] = teaching_plots.pooling(image, pooled, settings=settings)
    return out


def write(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as PNG into `folder`; returns their paths."""
    bodies = {name: plots.png(figure) for name, figure in figures.items()}
    make_folder(folder.absolute())
    paths = [folder.absolute() / file_name(name) for name in bodies]
    for path, body in zip(paths, bodies.values(), strict=True):
        write_atomic(path, body)
    return paths
