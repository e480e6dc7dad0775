"""Which images are explained: rows of a store by part, class or number, or pictures from files and arrays. Explains nothing."""
# M images, H x W pixels

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cxr_ray import runs
from cxr_ray.data import loader, store_format
from cxr_ray.data import store as stores
from cxr_ray.data.store import Store
from cxr_ray.datasets.folders import EXTENSIONS, find_pictures
from cxr_ray.errors import UserError
from cxr_ray.explanation.explainer import check_label
from cxr_ray.inference.input_list import own_store, part_of_run
from cxr_ray.inference.inputs import Images, gray_batches
from cxr_ray.inference.predictor import Predictor
from cxr_ray.labels import POSITIVE, label_values
from cxr_ray.storage.remote import to_path

LIMIT = 32
"""Images of a store that are explained unless another number is asked for (the notebook's)."""
Ints = npt.NDArray[np.int64]
Batches: TypeAlias = Iterator[tuple[Ints, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Selection:
    """Images to explain."""

    name: str
    """Of the folder that the maps are written to: the part, the part and class, `rows` or `pictures`."""
    rows: Ints
    """[M] row numbers of the store; positions among given pictures."""
    batches: Callable[[int], Batches]
    """Batch size to batches of (rows, gray values 0 to 255 [m, H, W])."""
    store: Store | None = None
    """Where the rows are from; None for pictures."""


def select(
    predictor: Predictor,
    images: Images | Store | None = None,
    *,
    rows: Sequence[int] | None = None,
    class_name: str | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> Selection:
    """The images to explain.

    `images`: None for the store of the predictor's run, another store or its path, or pictures: files, a folder of them, arrays. Of a
    store, `rows` by number, or the first `limit` (default `LIMIT`) of the part `split` (default: test if it has rows, else val; of
    another store all rows), of those that are positive for `class_name` if it is given. Raises `UserError` for an unknown name or row,
    and for options that do not go together."""
    if rows is not None and class_name is not None:
        raise UserError("rows are given by number, so they have no class: give --rows or --class, not both")
    if rows is not None and split is not None:
        raise UserError("rows are given by number, whatever their part: give --rows or --split, not both")
    for name, number in [("a row", row) for row in (() if rows is None else rows)] + [
        ("the limit", 1 if limit is None else limit)
    ]:
        if not isinstance(number, int | np.integer):
            raise UserError(f"{name} is a whole number, got {number!r}")
    if limit is not None and limit < 1:
        raise UserError(f"the limit must be at least 1, got {limit}")
    store, own = _store_of(predictor, images)
    if store is None:
        if rows is not None or class_name is not None or split is not None:
            what = "rows" if rows is not None else "class" if class_name is not None else "split"
            raise UserError(f"--{what} selects images of a store; pictures are explained as they are given: remove it")
        return _pictures(predictor, images, limit)
    if rows is not None:
        chosen, name = np.asarray(list(dict.fromkeys(int(row) for row in rows)), np.int64)[:limit], "rows"
        _check_rows(store, chosen)
    elif own:
        chosen, name = _of_part(predictor, store, class_name, split)
        chosen = chosen[: LIMIT if limit is None else limit]
    else:
        chosen, name = _of_other(store, class_name, split)
        chosen = chosen[: LIMIT if limit is None else limit]

    def batches(size: int) -> Batches:
        return ((chosen[at], grays) for at, grays in loader.eval_batches(store, chosen, batch_size=size))

    return Selection(name, chosen, batches, store)


def _store_of(predictor: Predictor, images: Any) -> tuple[Store | None, bool]:
    """The store to read from, if any, and whether it is the one of the run."""
    if isinstance(images, Store):
        run = predictor.run
        return images, run is not None and run.info["store"]["fingerprint"] == images.fingerprint
    if images is None:
        if predictor.run is None:
            raise UserError("a file of weights has no store: give a store or pictures to explain")
        return own_store(predictor.run), True
    if isinstance(images, str | os.PathLike):
        path = to_path(images)
        is_picture = path.suffix.lower() in EXTENSIONS
        if not is_picture and (not isinstance(path, Path) or (path / store_format.MANIFEST).is_file()):
            return _store_of(predictor, stores.open(path))
    return None, False


def _check_rows(store: Store, rows_M: Ints) -> None:
    missing = rows_M[~np.isin(rows_M, store.index["row"].to_numpy(np.int64))]
    if len(missing):
        low, high = int(store.index["row"].min()), int(store.index["row"].max())
        more = f" (and {len(missing) - 1} more of the given rows are missing)" if len(missing) > 1 else ""
        raise UserError(
            f"{store.origin} has no row {missing[0]}{more}; its rows are {low} to {high}, with gaps where images were refused"
        )


def _of_part(predictor: Predictor, store: Store, class_name: str | None, split: str | None) -> tuple[Ints, str]:
    assert predictor.run is not None
    plan = runs.plan_of(predictor.run, store)
    part = part_of_run(predictor.run, plan, split)
    rows_M = plan.rows[part]
    if class_name is None:
        return rows_M, part
    at = plan.labels.index(check_label(class_name, plan.labels, plan.task))
    found = rows_M[plan.truth[part][:, at] == 1.0]
    if not len(found):
        raise UserError(f"no image of {part} is positive for {class_name}; choose another --split or --class")
    return found, f"{part}-{class_name}"


def _of_other(store: Store, class_name: str | None, split: str | None) -> tuple[Ints, str]:
    if split is not None:
        raise UserError("--split is a part of the run's own store; the rows of another one have no part: remove it")
    if class_name is None:
        return store.index["row"].to_numpy(np.int64), store.name
    check_label(class_name, store.labels, store.task)
    positive = label_values(store.index, [class_name])[class_name] == POSITIVE
    found = store.index.loc[positive, "row"].to_numpy(np.int64)
    if not len(found):
        raise UserError(f"no image of {store.origin} is positive for {class_name}")
    return found, f"{store.name}-{class_name}"


def _pictures(predictor: Predictor, images: Any, limit: int | None) -> Selection:
    if isinstance(images, str | os.PathLike) and (folder := Path(images)).is_dir():
        names, _ = find_pictures(folder)
        if not names:
            raise UserError(f"{folder.absolute()} is neither a store nor has it an image ({' '.join(EXTENSIONS)})")
        images = [folder / name for name in names]
    elif not isinstance(images, Sequence | np.ndarray) or isinstance(images, str):
        images = images if hasattr(images, "shape") else [images]
    count = 1 if getattr(images, "ndim", 3) == 2 else len(images)
    count = count if limit is None else min(limit, count)
    images = images[:count] if getattr(images, "ndim", 3) != 2 else images
    if not count:
        raise UserError("there is no image to explain")

    def batches(size: int) -> Batches:
        done = 0
        _, grays = gray_batches(
            images, lambda: predictor.image_format, value_range=predictor.value_range, batch_size=size
        )
        for grays_MHW in grays:
            yield np.arange(done, done + len(grays_MHW), dtype=np.int64), grays_MHW
            done += len(grays_MHW)

    return Selection("pictures", np.arange(count, dtype=np.int64), batches)
