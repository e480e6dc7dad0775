"""Annotations of images as records, and which reader reads a file. What a file contains is in the module of its reader."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cxr_ray.errors import UserError
from cxr_ray.imaging.shapes import Drawn, Shape
from cxr_ray.registry import Registry
from cxr_ray.storage.remote import AnyPath, to_path


@dataclass(frozen=True)
class Annotation:
    """One finding, or organ, that was marked in one image."""

    image: str
    """Name of the image in the annotations: a path below the dataset's folder, a file name, or an id."""
    label: str
    """What was marked, as the file calls it."""
    shapes: Sequence[Shape] | Callable[[], npt.NDArray[np.bool_]]
    """Its parts, or a function that decodes its mask [h, w]: published masks of 100,000 images fit into memory only as text."""
    frame: tuple[int, int] | None = None
    """(height, width) of the image that boxes and outlines were drawn in; None: the original image's. A mask covers the whole image."""

    def parts(self) -> list[Shape]:
        """Its shapes; a mask is decoded now."""
        return [Drawn(self.shapes())] if callable(self.shapes) else list(self.shapes)


@dataclass(frozen=True)
class Annotations:
    """The annotations of a file or folder."""

    items: tuple[Annotation, ...]
    """In the order of the file."""
    absent: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Image to labels that were looked for and are absent, where the file states that."""
    source: str = ""
    """Name of the reader."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that occur, sorted."""
        return tuple(sorted({item.label for item in self.items}))

    def renamed(self, names: Mapping[str, str]) -> "Annotations":
        """With labels changed by `names`, such as {"Airspace Opacity": "Lung Opacity"}; others stay."""
        items = tuple(
            Annotation(item.image, names.get(item.label, item.label), item.shapes, item.frame) for item in self.items
        )
        absent = {image: frozenset(names.get(each, each) for each in found) for image, found in self.absent.items()}
        return Annotations(items, absent, self.source)


Reader: TypeAlias = Callable[[AnyPath, Any], Annotations]
"""`reader(path, options)`, with an instance of the `Options` that it is registered with."""

ANNOTATIONS: Registry[Reader] = Registry(
    "annotation format", ["cxr_ray.datasets.annotations.boxes", "cxr_ray.datasets.annotations.masks"]
)


def read_annotations(path: str | AnyPath, format: str = "auto", **options: Any) -> Annotations:
    """The annotations in a file or folder. `format`: a name in `ANNOTATIONS`, or auto: by the file's own header. `options`: the reader's own.

    Raises `UserError` for an unknown format or option, a missing or damaged file, and a file that no reader recognises."""
    from cxr_ray.datasets.annotations.detect import format_of

    place = to_path(path)
    if not place.exists():
        raise UserError(
            f"no annotations at {place.absolute()}; give a file of boxes or outlines, or a folder with masks"
        )
    entry = ANNOTATIONS[format_of(place) if format == "auto" else format]
    found = entry.make(place, entry.parse(options, where="options"))
    return Annotations(found.items, found.absent, entry.name)
