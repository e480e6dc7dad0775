"""Annotations on the images of a store: joined by name, and as masks of stored or resized pixels."""
# H, W height and width of a mask

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.data.store import Store
from cxr_ray.datasets.annotations.base import Annotation, Annotations
from cxr_ray.errors import UserError
from cxr_ray.imaging.pixels import Transform
from cxr_ray.imaging.shapes import Box, Placement

Mask = npt.NDArray[np.bool_]


def of_store(store: Store) -> Annotations | None:
    """The boxes that the ingest stored, one annotation per image and label; None if the dataset has no boxes."""
    boxes = store.boxes()
    if boxes is None:
        return None
    image = boxes["row"].map(store.index.set_index("row")["image"])
    found: dict[tuple[str, str], list[Box]] = {}
    for name, label, x, y, w, h in zip(image, boxes["label"], *(boxes[side].tolist() for side in "xywh"), strict=True):
        found.setdefault((str(name), str(label)), []).append(Box(x, y, w, h))
    return Annotations(tuple(Annotation(name, label, each) for (name, label), each in found.items()), source="store")


def placement(image: Mapping[Any, Any], stored: tuple[int, int], size: tuple[int, int] | None = None) -> Placement:
    """Where the original of an image lies in masks of `size` (None: of the stored size), from its row of the store's index."""
    transform = Transform(*(float(image[name]) for name in ("scale_y", "scale_x", "top", "left")))
    return Placement((int(image["height"]), int(image["width"])), transform, stored, size or stored)


def marked_masks(
    annotations: Annotations,
    store: Store,
    *,
    size: tuple[int, int] | None = None,
    labels: Iterable[str] | None = None,
    rows: Iterable[int] | None = None,
) -> dict[tuple[int, str], Mask]:
    """(row of the store, label) to its mask [H, W], of `size` or the store's own.

    An annotation belongs to the image of the same path; else of the same file name, or of the same name without an extension,
    or of CheXpert's id (patient_study_view). `labels` and `rows` select; annotations of other images are ignored, and a mask
    without a pixel (cropped away) is left out. Raises `UserError` if no annotation belongs to any image of the store, and if a
    name belongs to several."""
    wanted = None if labels is None else set(labels)
    selected = None if rows is None else {int(row) for row in rows}
    row_of = _rows_by_name(store.index)
    index = store.index.set_index("row")
    shapes: dict[tuple[int, str], list[Annotation]] = {}
    joined = False
    for item in annotations.items:
        row = row_of.get(
            item.image, row_of.get(PurePosixPath(item.image).name, row_of.get(PurePosixPath(item.image).stem))
        )
        if row is None:
            continue
        if row < 0:
            raise UserError(
                f"the annotations name {item.image!r}, and several images of the store have that name; write their paths"
            )
        joined = True
        if (wanted is None or item.label in wanted) and (selected is None or row in selected):
            shapes.setdefault((row, item.label), []).append(item)
    if annotations.items and not joined:
        example = store.index["image"].iloc[0] if len(store.index) else "none"
        raise UserError(
            f"none of the {len(annotations.items)} annotations ({annotations.items[0].image}, ...) is of an image of the store ({example}, ...); "
            "give the annotations of this dataset"
        )
    masks = {}
    for (row, label), items in shapes.items():
        place = placement(index.loc[row].to_dict(), store.size, size)
        mask = np.logical_or.reduce([place.rasterize(item.parts(), item.frame) for item in items])
        if mask.any():
            masks[row, label] = mask
    return masks


def _rows_by_name(index: pd.DataFrame) -> dict[str, int]:
    """Path, file name, stem and CheXpert's id of each image to its row; -1 for a name of several images."""
    found: dict[str, int] = {}
    for row, image in zip(index["row"].tolist(), index["image"].astype(str), strict=True):
        path = PurePosixPath(image)
        names = {image, path.name, path.stem, "_".join((*path.parts[-3:-1], path.stem))}
        for name in names:
            found[name] = -1 if name in found else row
    complete = dict(zip(index["image"].astype(str), index["row"].tolist(), strict=True))
    return found | complete  # a complete path is always unique
