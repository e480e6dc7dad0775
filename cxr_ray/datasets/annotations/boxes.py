"""Readers of boxes: NIH ChestX-ray14, VinDr-CXR, and image, label, x, y, w, h as the phantom writes them."""

import numpy as np
import numpy.typing as npt

from cxr_ray.datasets.annotations.base import ANNOTATIONS, Annotation, Annotations
from cxr_ray.datasets.cells import parse_numbers
from cxr_ray.datasets.nih import BOX_FRAME, BOX_NAMES
from cxr_ray.datasets.tables import read_text_table, require_columns, row_error
from cxr_ray.errors import UserError
from cxr_ray.imaging.shapes import Box
from cxr_ray.labels import safe_name
from cxr_ray.registry import Options
from cxr_ray.storage.remote import AnyPath


@ANNOTATIONS.register("nih")
def nih(path: AnyPath, options: Options) -> Annotations:
    """NIH ChestX-ray14's BBox_List_2017.csv: boxes in images of 1024 x 1024 pixels, Infiltrate as Infiltration."""
    raw = read_text_table(path, what="NIH's boxes")
    require_columns(raw, ("Image Index", "Finding Label"), path)
    if len(raw.columns) < 6:
        raise UserError(
            f"{path} has {len(raw.columns)} columns, not six (image, finding, and the box's x, y, w, h); download it again"
        )
    sides = [parse_numbers(raw, str(raw.columns[at]), path) for at in range(2, 6)]
    label = raw["Finding Label"].str.strip().replace(BOX_NAMES).map(safe_name)
    return _boxes(path, raw["Image Index"].str.strip().tolist(), label.tolist(), sides, frame=(BOX_FRAME, BOX_FRAME))


@ANNOTATIONS.register("vindr")
def vindr(path: AnyPath, options: Options) -> Annotations:
    """VinDr-CXR's annotations_*.csv or Kaggle's train.csv: boxes of every reader, in pixels of the DICOM; readers of an image join.

    Rows of readers without a finding have no box."""
    raw = read_text_table(path, what="VinDr's boxes")
    require_columns(raw, ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max"), path)
    left, top, right, bottom = (parse_numbers(raw, side, path) for side in ("x_min", "y_min", "x_max", "y_max"))
    label = raw["class_name"].str.strip().map(safe_name)
    sides = [left, top, right - left, bottom - top]
    return _boxes(path, raw["image_id"].str.strip().tolist(), label.tolist(), sides, blank=True)


@ANNOTATIONS.register("phantom")
def phantom(path: AnyPath, options: Options) -> Annotations:
    """A CSV with image, label, x, y, w, h in pixels of the original image, such as the phantom's boxes.csv."""
    raw = read_text_table(path, what="boxes")
    require_columns(raw, ("image", "label", "x", "y", "w", "h"), path)
    sides = [parse_numbers(raw, side, path) for side in "xywh"]
    return _boxes(path, raw["image"].str.strip().tolist(), raw["label"].str.strip().map(safe_name).tolist(), sides)


def _boxes(
    path: AnyPath,
    image: list[str],
    label: list[str],
    sides: list[npt.NDArray[np.float64]],
    *,
    frame: tuple[int, int] | None = None,
    blank: bool = False,
) -> Annotations:
    """One annotation per image and label, with all of its boxes. `blank`: rows without a box are allowed."""
    found: dict[tuple[str, str], list[Box]] = {}
    for at, (name, finding, x, y, w, h) in enumerate(
        zip(image, label, *(side.tolist() for side in sides), strict=True)
    ):
        if blank and np.isnan([x, y, w, h]).all():
            continue
        if not (w > 0 and h > 0 and np.isfinite([x, y, w, h]).all()):
            raise row_error(
                path, at, f"the box of {name!r} is x {x:g}, y {y:g}, w {w:g}, h {h:g}; correct it or delete the row"
            )
        found.setdefault((name, finding), []).append(Box(x, y, w, h))
    return Annotations(tuple(Annotation(name, finding, boxes, frame) for (name, finding), boxes in found.items()))
