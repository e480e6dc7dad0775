"""`cxr-ray describe`: a store in tables, in pictures, or one of its images in the terminal."""

import itertools
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cyclopts import App

from cxr_ray.cli.terminal import table
from cxr_ray.errors import UserError

SHADES = " .:-=+*#%@"

app = App(name="describe", help_format="markdown")


@app.default
def describe(
    shards: str,
    /,
    *,
    row: int | None = None,
    save: Path | None = None,
    top: int = 15,
    out: Path | None = None,
    images: bool = True,
) -> None:
    """Label frequency, label vectors, split balance of a store; one image of it in the terminal.

    Counts are of everything that was ingested; the cleaning that the source declares is applied when a run is planned,
    and a line says what it would keep.

    Parameters
    ----------
    shards
        Folder or URL that ingest wrote.
    row
        Show this image (a number of the column `row`) with its labels.
    save
        With --row: also write the image as PNG.
    top
        How many label vectors to list; the page lists thirty at least.
    out
        Folder for describe.html and its figures as PNG: labels, vectors, co-occurrence, split balance, samples, pixels, sizes.
    images
        --no-images keeps the X-rays themselves out of the page.
    """
    from cxr_ray.data import store as stores

    if save is not None and row is None:
        raise UserError("--save writes one image: say which by --row N")
    if row is not None and out is not None:
        raise UserError("--out draws the whole store, --row shows one image: give one of them")
    store = stores.open(shards, log=print)
    if row is not None:
        show_row(store, row, save)
    else:
        show_tables(store, top)
    if out is not None:
        from cxr_ray.report import store_page

        print(f"page: {store_page.write(store, out, pictures=images, top=max(top, 30)).resolve()}")
    print(f"shards: {store.origin}")
    print(f"next: cxr-ray train --data.shards {shlex.quote(str(shards))}")


def show_tables(store: Any, top: int) -> None:
    """Print what the store holds."""
    from cxr_ray.data import summary as counting
    from cxr_ray.data.plan import drop_by
    from cxr_ray.imaging import burned_in

    index, labels = store.index, list(store.labels)
    how_much = counting.size(index)
    patients = (
        "not told"
        if how_much.patients is None
        else f"{how_much.patients:,}, at most {how_much.most_images_of_a_patient} images of one"
    )
    print(f"{store.manifest.source}: {how_much.rows:,} images of {store.size[0]} x {store.size[1]} px, {store.task}")
    print(f"patients: {patients}; refused: {store.manifest.rejected:,}")
    if store.filters:
        dropped = drop_by(index, store.filters)
        print(
            f"declared cleaning ({', '.join(rule.name for rule in store.filters)}): keeps {int((dropped == '').sum()):,} of {len(index):,}"
        )
    for note in store.notes:
        print(f"note: {note}")
    if told := burned_in.look(store).told():
        print(f"warning: {told}")

    frequency = counting.label_frequency(index, labels)
    table(["label", "positive", "uncertain", "negative", "blank", "% positive"], _rows(frequency), title="labels")
    vectors = counting.label_vectors(index, labels)
    if store.task == "multilabel":
        shown = [(" + ".join(names) or "none", rows, percent) for names, rows, percent in _rows(vectors.head(top))]
        table(
            ["label vector", "rows", "%"],
            shown,
            title=f"the {len(shown)} most frequent of {len(vectors):,} label vectors",
        )
        table(
            ["findings in an image", "rows", "%"], _rows(counting.findings_per_image(index, labels)), title="findings"
        )
        if 1 < len(labels) <= 20:
            pairs = counting.together(index, labels)
            numbered = [f"{at} {name}" for at, name in enumerate(labels, start=1)]
            table(
                ["positive together", *(str(at) for at in range(1, len(labels) + 1))],
                [[name, *(int(n) for n in row)] for name, row in zip(numbered, pairs.to_numpy(), strict=True)],
            )
    parts = counting.splits(index, labels, store.features)
    if len(parts):
        table(list(parts.columns), _rows(parts), title="the dataset's own parts")


def show_row(store: Any, row: int, save: Path | None) -> None:
    """Print one image and its labels; nothing that names a patient (paths do, in some datasets)."""
    found = store.index[store.index["row"] == row]
    if found.empty:
        low, high = int(store.index["row"].min()), int(store.index["row"].max())
        raise UserError(
            f"no row {row} in {store.origin}: it was refused, or never listed; rows go from {low} to {high}"
        )
    one = found.iloc[0]
    pixels = store.pictures([row])[0]
    print(drawing(pixels))
    said = {
        name: one[name] for name in ("view", "sex", "age", "source", "split", "height", "width") if name in one.index
    }
    print(
        f"row {row}: "
        + ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in said.items()
            if value == value and value is not None
        )
    )
    meaning = {1.0: "positive", 0.0: "negative", -1.0: "uncertain"}
    table(["label", "says"], [[label, meaning.get(float(one[label]), "not mentioned")] for label in store.labels])
    if save is not None:
        from PIL import Image

        save.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(save, format="PNG")
        print(f"image: {save.resolve()}")


def drawing(pixels_HW: npt.NDArray[np.uint8], *, columns: int = 64) -> str:
    """The image [H, W] in characters, `columns` wide, darker to brighter; a character is twice as high as wide."""
    height, width = pixels_HW.shape
    rows = max(1, round(columns * height / width / 2))
    tops = np.linspace(0, height, rows + 1).astype(int)
    lefts = np.linspace(0, width, columns + 1).astype(int)
    lines = []
    for top, bottom in zip(tops[:-1], np.maximum(tops[1:], tops[:-1] + 1), strict=True):
        blocks = [pixels_HW[top:bottom, a : max(b, a + 1)].mean() for a, b in itertools.pairwise(lefts)]
        lines.append("".join(SHADES[min(int(value / 256 * len(SHADES)), len(SHADES) - 1)] for value in blocks).rstrip())
    return "\n".join(lines)


def _rows(frame: Any) -> list[tuple[Any, ...]]:
    return list(frame.itertuples(index=False, name=None))
