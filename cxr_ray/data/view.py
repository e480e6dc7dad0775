"""A store as other settings see it: with derived labels, as a run selects its rows and labels; and one of its images by its name."""

from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray.data import plan as plans
from cxr_ray.data.derive import add_derived
from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.summary import one_gray_warning
from cxr_ray.errors import UserError, closest, listed, quoted
from cxr_ray.imaging import burned_in

S = TypeVar("S", bound=plans.StoreLike)
MANY = 2000
"""Images of a store up to which a wrong name gets the closest one suggested: comparing takes about 10 µs per name."""


def with_derived(store: S, data: cfg.Data) -> S:
    """The store as if its index had the labels of `data.derive`. Raises `UserError` as `add_derived` does."""
    return _seen(store, *add_derived(store.index, store.info, data))


def selected(store: S, data: cfg.Data) -> S:
    """The store as if it had only the rows and labels that the settings `data` select (`plan.select`); the rest is not deleted.

    Raises `UserError` if no row is left, and for unknown labels."""
    chosen = plans.select(store, data)
    labels = tuple(chosen.labels)
    groups = {name: of for name, of in chosen.groups.items() if set(of) <= set(labels)}
    changes = {"labels": labels, "default_labels": labels, "task": chosen.task, "groups": groups, "filters": ()}
    return _seen(store, chosen.table.reset_index(drop=True), chosen.info.model_copy(update=changes))


def _seen(store: S, index: pd.DataFrame, info: DatasetInfo) -> S:
    seen: Any = object.__new__(type(store))  # copy.copy would open the folder again
    seen.__dict__ |= {name: value for name, value in vars(store).items() if name != "_labels_NL"}
    seen.index, seen.info = index, info
    return cast(S, seen)


def warnings_of(store: Any) -> list[str]:
    """What people should know before they use the images of a store: images of one gray, letters burned into corners."""
    found = (one_gray_warning(store.index, store.info.filters), burned_in.scan(store).warning())
    return [message for message in found if message]


def find_row(index: pd.DataFrame, image: str) -> int:
    """The row number of an image by its row number, its path in the dataset, its file name, or that without the ending.

    A number is a row number if there is such a row. Raises `UserError` if no image or several are called so."""
    rows = index["row"].to_numpy(np.int64)
    if image.isdecimal() and int(image) in rows:
        return int(image)
    paths = index["image"].astype(str)
    names = paths.str.rpartition("/")[2]
    for column in (paths, names, names.str.rpartition(".")[0]):
        found = rows[(column == image).to_numpy()]
        if len(found) > 1:
            which = listed([f"{row} ({paths[rows == row].iloc[0]})" for row in found], most=5)
            raise UserError(f"{len(found)} images are called {quoted(image)}: rows {which}; give the row number")
        if len(found):
            return int(found[0])
    if image.isdecimal():
        raise UserError(
            f"there is no row {image}: its image was refused, or does not exist; row numbers are {rows.min()} to {rows.max()}"
        )
    raise UserError(
        f"no image is called {quoted(image)}{closest(image, names[:MANY]) or '; give its path in the dataset, or its row number'}"
    )
