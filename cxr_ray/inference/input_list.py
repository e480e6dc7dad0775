"""What is predicted: rows of a store, or files of a folder or a table, in the order of the output. Reads names, and decodes nothing."""
# N inputs

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.data import store_format
from cxr_ray.data.store import Store
from cxr_ray.datasets.folders import EXTENSIONS, find_pictures, kinds_of
from cxr_ray.datasets.pseudonyms import pseudonym
from cxr_ray.datasets.tables import TABLE_SUFFIXES, read_text_table, require_columns
from cxr_ray.errors import UserError, unknown
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.pixels import ImageError
from cxr_ray.labels import PARTS
from cxr_ray.storage.remote import AnyPath, to_path

Ints = npt.NDArray[np.int64]
COMPARED_FILES = 8
"""Files of a list, evenly spread, whose content counts in its digest: folders of different films may have the same names."""


@dataclass(frozen=True, eq=False)
class InputList:
    """N inputs. Either `store` and `rows`, or `root` and `names`."""

    digest: str
    """sha256 of which inputs these are, and of their order: of a store its fingerprint, of files the names and the content of a few."""
    store: Store | None = None
    rows: Ints | None = None
    """[N] row numbers of the store."""
    root: AnyPath | None = None
    """Folder that the names are below."""
    names: tuple[str, ...] = ()
    """[N] paths below the root; an empty one was not given."""
    patients: tuple[str | None, ...] | None = None
    """[N] as the store or the table has them; None: it has none."""
    studies: tuple[str | None, ...] | None = None
    searched: bool = False
    """All images below the root are inputs: a file that is written there would be one of the next time."""
    notes: tuple[str, ...] = ()
    """What was left out, for the log."""

    def __len__(self) -> int:
        return len(self.names) if self.rows is None else len(self.rows)

    def hashed(self, secret: bytes) -> "InputList":
        """The same with keyed hashes of patients and studies, as an ingest makes them."""
        known = {"patient": self.patients, "study": self.studies}
        of = {
            kind: texts and tuple(None if text is None else pseudonym(kind, text, secret) for text in texts)
            for kind, texts in known.items()
        }
        return replace(self, patients=of["patient"], studies=of["study"])


def own_store(run: runs.Run) -> Store:
    """The store that the run was trained on. Raises `UserError` if another one is there now."""
    described = run.info["store"]
    store = stores.open(described["path"], cache=run.config.data.cache)
    if store.fingerprint != described["fingerprint"]:
        raise UserError(
            f"the store {store.origin} is not the one that {run.path.name} was trained on: its fingerprint differs; to use its "
            "images all the same, give it as the input"
        )
    return store


def part_of_run(run: runs.Run, plan: Any, part: str | None) -> str:
    """`part`, by default test if it has rows, else val. Raises `UserError` for an unknown part and one without rows."""
    if part is not None and part not in PARTS:
        raise unknown("split", part, PARTS)
    chosen = part or ("test" if len(plan.rows["test"]) else "val")
    if not len(plan.rows[chosen]):
        parts = ", ".join(p for p in PARTS if len(plan.rows[p]))
        raise UserError(f"the run {run.path.name} has no rows in {chosen}; it has rows in {parts}")
    return chosen


def open_inputs(
    inputs: str | os.PathLike[str] | Store,
    *,
    run: runs.Run | None = None,
    part: str | None = None,
    image: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> InputList:
    """The inputs in a store, a folder of images at any depth, a table with a column of paths, or one image file; local or remote.

    `part` of the store that `run` was trained on: only its rows. `image`: column of a table (default: image), whose paths are below
    `root` (default: the table's folder). Raises `UserError` if there is no input, and for options that the inputs do not have."""
    path = to_path(inputs)
    kind = _kind(inputs, path)
    if kind != "table" and (image is not None or root is not None):
        raise UserError(
            f"--{'image' if image is not None else 'root'} belongs to a table, and {path} is a {kind}: remove it"
        )
    if kind == "store":
        return _of_store(inputs if isinstance(inputs, Store) else stores.open(path), run, part)
    if part is not None:
        raise UserError(f"--part is a part of the run's own store, and {path} is a {kind}: remove it")
    if kind == "table":
        return _of_table(path, image or "image", path.parent if root is None else to_path(root))
    if kind == "file":
        return _of_files(path.parent, [path.name])
    names, others = find_pictures(path, refuse_links=False)
    left_out = kinds_of(others)
    if not names:
        raise UserError(
            f"{path.absolute()} is no store and has no image ({' '.join(EXTENSIONS)})"
            + (f", only {left_out}" if left_out else "")
            + "; give a store, a folder with images, a table or an image"
        )
    notes = [f"files that are no images were left out: {left_out}"] if left_out else []
    return replace(_of_files(path, names), searched=True, notes=tuple(notes))


def _kind(inputs: Any, path: AnyPath) -> str:
    """store, table, file or folder. Raises `UserError` if there is nothing."""
    if isinstance(inputs, Store):
        return "store"
    if path.is_dir():
        return "store" if (path / store_format.MANIFEST).is_file() else "folder"
    if path.name.lower().endswith(TABLE_SUFFIXES):
        return "table"
    if not path.is_file():
        raise UserError(f"there is nothing at {path.absolute()}; give a store, a folder of images, a table or an image")
    return "file"


def _of_store(store: Store, run: runs.Run | None, part: str | None) -> InputList:
    rows = store.index["row"].to_numpy(np.int64)
    if part is not None:
        if run is None or store.fingerprint != run.info["store"]["fingerprint"]:
            raise UserError(f"--part is a part of the run's own store, and {store.origin} is another one: remove it")
        plan = runs.plan_of(run, store)
        rows = np.asarray(plan.rows[part_of_run(run, plan, part)], np.int64)
    records = store.index.set_index("row").loc[rows]
    digest = hashlib.sha256(f"store\0{store.fingerprint}\0".encode() + rows.tobytes()).hexdigest()
    return InputList(
        digest, store=store, rows=rows, patients=_texts(records.get("patient")), studies=_texts(records.get("study"))
    )


def _of_table(path: AnyPath, column: str, root: AnyPath) -> InputList:
    table = read_text_table(path, what="a table of images")
    require_columns(table, (column,), path)
    if table.empty:
        raise UserError(f"{path} lists no image; give a table with one row per image")
    if not root.is_dir():
        raise UserError(f"no folder at {root.absolute()}; --root is the folder that the paths of the table are below")
    names = [_below(name.strip(), root) for name in table[column].tolist()]
    known = {kind: _texts(table.get(kind)) for kind in ("patient", "study")}
    return _of_files(root, names, patients=known["patient"], studies=known["study"])


def _below(name: str, root: AnyPath) -> str:
    """A path of a table, relative to the root where it is absolute and below it."""
    name = name.replace("\\", "/").removeprefix("./")
    if isinstance(root, Path) and name.startswith("/"):
        above = root.absolute().as_posix().rstrip("/") + "/"
        return name.removeprefix(above)
    return name


def _of_files(root: AnyPath, names: list[str], **identifiers: Any) -> InputList:
    body = "\0".join(["files", *names, *(text or "" for each in identifiers.values() for text in each or ())])
    digest = hashlib.sha256(body.encode("utf-8", "surrogatepass"))
    spread = np.unique(np.linspace(0, len(names) - 1, COMPARED_FILES).astype(int)).tolist()
    for content in Root(root).read_each([names[at] for at in spread]):
        digest.update(content.reason.encode() if isinstance(content, ImageError) else hashlib.sha256(content).digest())
    return InputList(digest.hexdigest(), root=root.absolute(), names=tuple(names), **identifiers)


def _texts(column: "pd.Series[Any] | None") -> tuple[str | None, ...] | None:
    """The cells as text, None where blank; None if all are, or if there is no such column."""
    if column is None:
        return None
    texts = tuple(None if pd.isna(cell) or not str(cell).strip() else str(cell).strip() for cell in column.tolist())
    return texts if any(texts) else None


def public_name(name: str) -> str:
    """A name as the output has it: never an absolute path, of which only the last part stays."""
    return PurePosixPath(name).name if name.startswith("/") else name
