"""Readers of outlines and masks: CheXlocalize's JSON, CheXmask's CSV, and mask folders of the COVID-19 Radiography Database."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr_ray.datasets.annotations.base import ANNOTATIONS, Annotation, Annotations
from cxr_ray.datasets.cells import parse_numbers
from cxr_ray.datasets.folders import find_images
from cxr_ray.datasets.tables import first_column, read_text_table, reading, require_columns
from cxr_ray.errors import UserError
from cxr_ray.imaging import run_lengths
from cxr_ray.imaging.shapes import Polygon
from cxr_ray.registry import Options
from cxr_ray.storage.remote import AnyPath, local_copy

LUNGS = "Lungs"
"""Label of a mask of both lungs."""
CHEXLOCALIZE_NAMES = {"Airspace Opacity": "Lung Opacity"}
"""Spelling in CheXlocalize -> CheXpert's label."""
ORGANS = ("Left Lung", "Right Lung", "Heart")
ID_COLUMNS = ("Image Index", "image_id", "ImageID", "dicom_id", "Path")
"""Columns of CheXmask's five files that name the image."""


@ANNOTATIONS.register("chexlocalize")
def chexlocalize(path: AnyPath, options: Options) -> Annotations:
    """CheXlocalize's gt_annotations_*.json (outlines) or gt_segmentations_*.json (COCO run lengths), by image id of CheXpert.

    A segmentation without a pixel states that the finding is absent. Airspace Opacity is Lung Opacity."""
    with reading(path, what="CheXlocalize's annotations") as file:
        content = json.loads(file.read_text(encoding="utf-8"))
    items: list[Annotation] = []
    absent: dict[str, frozenset[str]] = {}
    try:
        for image, findings in content.items():
            frame = tuple(int(side) for side in findings["img_size"]) if "img_size" in findings else None
            empty = set()
            for name, value in findings.items():
                label = CHEXLOCALIZE_NAMES.get(name, name)
                if isinstance(value, dict):
                    size = (int(value["size"][0]), int(value["size"][1]))
                    counts = str(value["counts"])
                    if run_lengths.coco_pixels(counts, size):
                        items.append(Annotation(image, label, partial(run_lengths.from_coco, counts, size)))
                    else:
                        empty.add(label)
                elif name != "img_size":
                    outlines = [
                        Polygon(tuple((float(x), float(y)) for x, y in outline)) for outline in value if outline
                    ]
                    items.append(Annotation(image, label, outlines, (frame[0], frame[1]) if frame else None))
            if empty:
                absent[image] = frozenset(empty)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{path}: {error!s} in the annotations of {image!r}; download the file again"
            if content and isinstance(content, dict)
            else f"{path} is not CheXlocalize's JSON (image id to findings); give gt_annotations_*.json or gt_segmentations_*.json"
        ) from None
    return Annotations(tuple(items), absent)


class ChexmaskOptions(Options):
    """Options of CheXmask."""

    quality: float = 0.7
    """Smallest `Dice RCA (Mean)`, the estimated quality of a mask, that is used (the authors' own: 0.7)."""


@ANNOTATIONS.register("chexmask", ChexmaskOptions)
def chexmask(path: AnyPath, options: ChexmaskOptions) -> Annotations:
    """CheXmask's CSV of NIH, CheXpert, MIMIC, PadChest or VinDr: `Lungs` (both) and `Heart`, of masks of sufficient quality."""
    raw = read_text_table(path, what="CheXmask's masks")
    require_columns(raw, (*ORGANS, "Height", "Width"), path)
    image = raw[first_column(raw, ID_COLUMNS, path)].str.strip().tolist()
    height, width = (parse_numbers(raw, side, path).astype(np.int64).tolist() for side in ("Height", "Width"))
    good = np.ones(len(raw), dtype=np.bool_)
    if "Dice RCA (Mean)" in raw:
        good = parse_numbers(raw, "Dice RCA (Mean)", path) >= options.quality
    items: list[Annotation] = []
    for at in np.flatnonzero(good).tolist():
        size = (height[at], width[at])
        left, right, heart = (raw[organ].iloc[at] for organ in ORGANS)
        items.append(
            Annotation(image[at], LUNGS, partial(_union, (left, right), size, f"{path}, row {at} (counted from 0)"))
        )
        items.append(
            Annotation(image[at], "Heart", partial(_union, (heart,), size, f"{path}, row {at} (counted from 0)"))
        )
    return Annotations(tuple(items))


@ANNOTATIONS.register("covid_radiography")
def covid_radiography(path: AnyPath, options: Options) -> Annotations:
    """Lung masks of the COVID-19 Radiography Database: CLASS/masks/NAME.png of the image CLASS/images/NAME.png."""
    items = [Annotation(image, LUNGS, partial(_read_mask, path / mask)) for image, mask in _mask_files(path)]
    if not items:
        raise UserError(f"{path.absolute()} has no CLASS/masks/*.png; give the folder that contains the class folders")
    return Annotations(tuple(items))


def _mask_files(root: AnyPath) -> Iterator[tuple[str, str]]:
    """(image, mask) as paths below `root`."""
    for mask in find_images(root, root)[0]:
        parts = PurePosixPath(mask).parts
        if len(parts) >= 2 and parts[-2].casefold() == "masks":
            yield str(PurePosixPath(*parts[:-2], "images", parts[-1])), mask


def _read_mask(path: AnyPath) -> npt.NDArray[np.bool_]:
    """A mask file [h, w]: white is inside."""
    try:
        with local_copy(path) as file, Image.open(file) as image:
            return np.asarray(image.convert("L")) > 127
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the mask {path}: {error}; download it again") from None


def _union(texts: tuple[Any, ...], size: tuple[int, int], where: str) -> npt.NDArray[np.bool_]:
    mask = np.zeros(size, dtype=np.bool_)
    for text in texts:
        try:
            mask |= run_lengths.from_pairs(str(text), size)
        except ValueError as error:
            raise UserError(f"{where}: {error}; download the file again") from None
    return mask
