"""`cxr-ray describe`: prints tables of a store, or one of its images, or writes the store's page."""

import itertools
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from cyclopts import App, Parameter

from cxr_ray.cli import config_flags, flags, next_steps
from cxr_ray.cli.parameters import Words
from cxr_ray.cli.terminal import table
from cxr_ray.errors import UserError
from cxr_ray.labels import label_values
from cxr_ray.storage.atomic import make_folder, write_atomic

SHADES = " .:-=+*#%@"

app = App(name="describe", help_format="markdown")


@app.default
def describe(
    shards: str | None = None,
    /,
    *,
    config: Annotated[str | None, Parameter(name=["--config", "-c"])] = None,
    labels: Words = None,
    cleaned: Annotated[bool, Parameter(negative="")] = False,
    row: str | None = None,
    augmented: Annotated[bool, Parameter(negative="")] = False,
    save: Path | None = None,
    top: int = 15,
    out: Path | None = None,
    images: bool = True,
    derive: str | None = None,
    neighbours: int | None = None,
    features: Path | None = None,
) -> None:
    """Show a store's label frequencies, label vectors and split balance, one of its images, or what training sees of it.

    All ingested images are counted. The source's cleaning rules are only applied when a run is planned; one line shows how many
    rows they keep. --cleaned, --labels and -c count what a run has of the store.

    Parameters
    ----------
    shards
        Folder or URL of the store. Default: that of the config.
    config
        A config file, preset:NAME or the folder of a run: count the rows and labels that it selects.
    labels
        Count only these labels, or a group such as competition5.
    cleaned
        Count only the rows and labels that the source's cleaning rules keep.
    row
        Show one image with its record and labels: its row number, its path in the dataset, or its file name. Path and patient are
        shown on the terminal alone.
    augmented
        Write a grid of train images as the first epochs of the config augment them, to the file --save.
    save
        With --row: also write the image to this PNG file. With --augmented: the PNG file (default: augmented.png). With --neighbours: the
        image and its neighbours.
    top
        Number of label vectors to list, or of neighbours; the page lists at least 30 vectors, and label_vectors.csv has all.
    out
        Folder for describe.html, its figures as PNG (labels, vectors, co-occurrence, split balance, samples, pixels, sizes) and
        label_vectors.csv.
    images
        --no-images: write the page without X-ray images.
    derive
        Also count labels made of several, as `data.derive` has them: '{Any fracture: {any: [Rib fracture, Clavicle fracture]}}'.
    neighbours
        List the images that are most similar to the one with this row number, by the features of --features.
    features
        With --neighbours: folder that `cxr-ray embed MODEL SHARDS OUT` wrote.
    """
    from cxr_ray import config as configs
    from cxr_ray.data import store as stores
    from cxr_ray.data import view

    check_flags(row=row, augmented=augmented, save=save, out=out, neighbours=neighbours, features=features)
    settings = configs.Config() if config is None else config_flags.load(config, [], also=[], usage="")
    where = shards or settings.data.shards
    if not where:
        raise UserError("give the folder of a store, or -c with a config that names one (data.shards)")
    data = settings.data.model_copy(update=_changes(labels, cleaned, derive, configured=config is not None))
    if augmented:
        write_augmented(settings.model_copy(update={"data": data.model_copy(update={"shards": str(where)})}), save)
        return
    store = stores.open(where, log=print)
    seen = ""
    if labels or cleaned or config is not None:
        whole, store = len(store.index), view.selected(store, data)
        how = (
            "as a run selects its rows and labels"
            if cleaned or config is not None
            else "chosen labels, without cleaning"
        )
        seen = f"{how}: {len(store.index):,} of {whole:,} images, {len(store.labels)} labels"
        print(seen)
    elif derive is not None:
        store = view.with_derived(store, data)
    if neighbours is not None and features is not None:
        show_neighbours(store, features, neighbours, top, save)
    elif row is not None:
        show_row(store, row, save)
    else:
        show_tables(store, top)
    if out is not None:
        from cxr_ray.report import store_page

        split = None if config is None else data.split
        page = store_page.write(store, out, pictures=images, top=max(top, 30), seen=seen, split=split)
        print(f"page: {page.resolve()}")
    print(f"store: {store.origin}")
    next_steps.show(next_steps.train_on(where))


def check_flags(
    *,
    row: str | None,
    augmented: bool,
    save: Path | None,
    out: Path | None,
    neighbours: int | None,
    features: Path | None,
) -> None:
    """Raises `UserError` for flags that do not go together."""
    if (neighbours is None) != (features is None):
        raise UserError("--neighbours ROW and --features FOLDER belong together: similar images are found by features")
    if neighbours is not None and (row is not None or out is not None or augmented):
        raise UserError("--neighbours is for one image and prints a table: leave --row, --out and --augmented out")
    if save is not None and row is None and neighbours is None and not augmented:
        raise UserError("--save writes one picture: select an image with --row, or give --augmented")
    if row is not None and (out is not None or augmented):
        other = "--augmented" if augmented else "--out"
        raise UserError(f"{other} is for the complete store, --row for one image: give only one of them")


def _changes(labels: list[str] | None, cleaned: bool, derive: str | None, *, configured: bool) -> dict[str, Any]:
    """The settings of `data` that the flags of this command replace. Without a config or --cleaned, no filter is applied."""
    from cxr_ray import config as configs

    changes: dict[str, Any] = {}
    if derive is not None:
        annotation = configs.Data.model_fields["derive"].annotation
        given = {"data": {"derive": flags.read([derive], annotation, "--derive")}}
        changes["derive"] = configs.validate(given, where="--derive").data.derive
    if labels:
        changes["labels"] = labels
    if cleaned:
        changes["filters"] = "default"
    elif not configured:
        changes["filters"] = "none"
    return changes


def write_augmented(config: Any, save: Path | None) -> None:
    """Write the grid of augmented train images to `save`."""
    from cxr_ray.workflows import augmented

    print(f"augmented: {augmented.write(config, save or Path('augmented.png'))}")
    next_steps.show(next_steps.train_on(config.data.shards))


def show_tables(store: Any, top: int) -> None:
    """Print the counts of the store."""
    from cxr_ray.data import summary
    from cxr_ray.data.filters import dropping_filter
    from cxr_ray.data.view import warnings_of

    index, labels = store.index, list(store.labels)
    size = summary.size(index)
    patients = (
        "unknown"
        if size.patients is None
        else f"{size.patients:,}, at most {size.most_images_of_a_patient} images of one patient"
    )
    print(f"{store.manifest.source}: {size.rows:,} images of {store.size[0]} x {store.size[1]} px, {store.task}")
    print(f"patients: {patients}; images rejected: {store.manifest.rejected:,}")
    if store.info.filters:
        dropped = dropping_filter(index, store.info.filters)
        print(
            f"cleaning rules of the source ({', '.join(rule.name for rule in store.info.filters)}): keep {int((dropped == '').sum()):,} of {len(index):,}"
        )
    for note in store.info.notes:
        print(f"note: {note}")
    for message in warnings_of(store):
        print(f"warning: {message}")

    frequency = summary.label_frequency(index, labels)
    table(
        ["label", "positive", "uncertain", "negative", "not mentioned", "% positive"], _rows(frequency), title="labels"
    )
    vectors = summary.label_vectors(index, labels)
    if store.task == "multilabel":
        shown = [(" + ".join(names) or "none", rows, percent) for names, rows, percent in _rows(vectors.head(top))]
        table(
            ["label vector", "rows", "%"],
            shown,
            title=f"the {len(shown)} most frequent of {len(vectors):,} label vectors",
        )
        table(
            ["positive labels per image", "rows", "%"],
            _rows(summary.findings_per_image(index, labels)),
            title="positive labels per image",
        )
        if 1 < len(labels) <= 20:
            pairs = summary.co_occurrence(index, labels)
            numbered = [f"{number} {name}" for number, name in enumerate(labels, start=1)]
            table(
                ["co-occurrence", *(str(number) for number in range(1, len(labels) + 1))],
                [[name, *(int(n) for n in row)] for name, row in zip(numbered, pairs.to_numpy(), strict=True)],
            )
    parts = summary.official_parts(index, labels, store.info.features)
    if len(parts):
        table(list(parts.columns), _rows(parts), title="official split")


def show_row(store: Any, image: str, save: Path | None) -> None:
    """Print one image, its record and its labels. A terminal is the only place that shows its path and patient."""
    from cxr_ray.data.view import find_row

    row = find_row(store.index, image)
    matches = store.index[store.index["row"] == row]
    record = matches.iloc[0]
    pixels = store.pictures([row])[0]
    print(ascii_art(pixels))
    shown = ("image", "patient", "study", "view", "sex", "age", "source", "url", "split", "height", "width")
    values = {name: record[name] for name in ("row", *shown) if name in record.index}
    table(
        ["record", "value"],
        [
            ["path" if name == "image" else name, f"{value:g}" if isinstance(value, float) else str(value)]
            for name, value in values.items()
            if value == value and value is not None
        ],
    )
    meaning = {1.0: "positive", 0.0: "negative", -1.0: "uncertain"}
    values_of = label_values(matches, store.labels).iloc[0].astype(float)
    table(["label", "value"], [[label, meaning.get(value, "not mentioned")] for label, value in values_of.items()])
    if save is not None:
        from PIL import Image

        make_folder(save.absolute().parent)
        write_atomic(save, lambda file: Image.fromarray(pixels).save(file, format="PNG"))
        print(f"image: {save.resolve()}")


def show_neighbours(store: Any, folder: Path, row: int, count: int, save: Path | None) -> None:
    """Print the rows most similar to one, and write their images to the PNG file `save`."""
    from cxr_ray.data import features, figure
    from cxr_ray.data.neighbours import nearest

    found = features.open(folder)
    features.check_store(found, store)
    similar = nearest(found, store, row, count)
    rows, similarity = similar["row"].tolist(), similar["similarity"].tolist()
    same = ["yes" if is_same else "" for is_same in similar["same_patient"]]
    labels = [", ".join(positive) or "none" for positive in similar["positive"]]
    table(
        ["row", "similarity", "same patient", "positive labels"],
        [list(one) for one in zip(rows, [f"{value:.3f}" for value in similarity], same, labels, strict=True)],
        title=f"images most similar to row {row}, by {found.manifest.model}",
    )
    if save is not None:
        titles = [f"row {row}", *(f"row {n}: {value:.3f}" for n, value in zip(rows, similarity, strict=True))]
        drawn = figure.draw_neighbours(store.pictures([row, *rows]), titles)
        make_folder(save.absolute().parent)
        write_atomic(save, lambda file: drawn.savefig(file, format="png"))
        print(f"images: {save.resolve()}")


def ascii_art(pixels_HW: npt.NDArray[np.uint8], *, columns: int = 64) -> str:
    """The image [H, W] as text, `columns` characters wide; a character is twice as high as wide."""
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
