"""The page of a store, and its figures as PNG. The numbers are data/summary.py, the plots plotting/store_plots.py."""

import base64
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from cxr_ray import config as cfg
from cxr_ray.data import leakage, summary
from cxr_ray.data import plan as plans
from cxr_ray.data.store import Store
from cxr_ray.errors import UserError
from cxr_ray.metrics import prevalence
from cxr_ray.plotting import store_plots as plots
from cxr_ray.plotting.plots import STYLE, Figure, png
from cxr_ray.report.render import jinja
from cxr_ray.storage.atomic import make_folder, write_atomic

GRID = 24  # images in the grid of samples
HISTOGRAM = 400  # images whose gray values are counted


def write(store: Store, out: Path, *, pictures: bool = True, top: int = 30) -> Path:
    """Write `describe.html` and its figures as PNG into the folder `out`; returns the page's path.

    `pictures`: whether the page shows images (named by row, never by patient). `top`: number of label vectors listed.
    Equal stores give equal pages. Raises `UserError` if `out` cannot be created."""
    make_folder(out.absolute())
    index, labels = store.index, list(store.labels)
    frequency = summary.label_frequency(index, labels)
    vectors = summary.label_vectors(index, labels)
    sizes = summary.original_sizes(index)
    parts, split_note = _parts(store)
    sampled = summary.sample(index, HISTOGRAM)
    with matplotlib.rc_context(STYLE):
        plotted: dict[str, Figure] = {"label_frequency": plots.label_frequency(frequency)}
        if store.task == "multilabel":
            plotted["label_vectors"] = plots.label_vectors(vectors)
            plotted["findings"] = plots.findings(summary.findings_per_image(index, labels))
            if len(labels) > 1:
                plotted["co_occurrence"] = plots.co_occurrence(summary.co_occurrence(index, labels))
        if parts:
            plotted["split_balance"] = plots.split_balance(parts, list(next(iter(parts.values()))["labels"]))
        plotted["pixels"] = plots.pixels(index, store.pictures(sampled))
        plotted["sizes"] = plots.sizes(sizes)
        if pictures:
            plotted |= _grids(store)
        figures = {name: png(figure) for name, figure in plotted.items()}
    page = (
        jinja()
        .get_template("store.html")
        .render(
            store=store,
            size=summary.size(index),
            frequency=frequency.to_dict("records"),
            uncertain=bool(frequency[["uncertain", "blank"]].to_numpy().any()),
            vectors=[
                {**row, "name": " + ".join(row["labels"]) or "none"} for row in vectors.head(top).to_dict("records")
            ],
            vectors_in_all=len(vectors),
            official=summary.official_parts(index, labels, store.info.features).to_dict("split"),
            leaks=leakage_text(store),
            parts=parts,
            split_note=split_note,
            pixel=summary.pixel_statistics(index),
            sizes=sizes.head(8).to_dict("records"),
            sizes_in_all=len(sizes),
            figures={
                name: {
                    "uri": "data:image/png;base64," + base64.b64encode(body).decode(),
                    "width": round(
                        100 * plotted[name].get_size_inches()[0]
                    ),  # 8 points of text are 11 pixels in each figure
                }
                for name, body in figures.items()
            },
        )
    )
    for name, body in figures.items():
        write_atomic(out / f"{name}.png", body)
    write_atomic(out / "describe.html", page)
    return out / "describe.html"


def _parts(store: Store) -> tuple[dict[str, Any], str]:
    """The prevalence of each part of the default split, and a line that describes the split, or why there is none."""
    data = cfg.Data()
    try:
        plan = plans.build(store, data, seed=0)
    except UserError as error:
        return {}, f"The default settings cannot split these rows: {error}."
    patient = store.index.set_index("row")["patient"]
    parts = {
        part: prevalence(plan.truth[part], labels=plan.labels, patients=patient.loc[rows.tolist()])
        for part, rows in plan.rows.items()
        if len(rows)
    }
    rows_in_parts = sum(len(rows) for rows in plan.rows.values())
    return parts, (
        f"The split of a run with default settings: {rows_in_parts:,} rows after the declared cleaning, by {data.split.by}, "
        f"val {data.split.val:g}, test {data.split.test:g}, seed {data.split.seed}."
    )


def leakage_text(store: Store) -> str:
    """Leakage between the dataset's official parts, by row; empty if there is none."""
    index = store.index
    listed = index[index["split"].notna()]
    part_N = listed["split"].to_numpy(object)
    found = leakage.pairs_across_parts(listed, part_N, by_patient=True)
    rows = {part: listed["row"].to_numpy(np.int64)[part_N == part] for part in plans.PARTS}
    near = leakage.near_duplicates(listed, rows, distance=cfg.Split().near_duplicates or 0, images=store.pictures)
    lines = [
        f"{len(pairs):,} {what if len(pairs) == 1 else others} ({leakage.describe_pairs(pairs)})"
        for what, others, pairs in (
            ("patient in two parts", "patients in two parts", found[found["what"] == "patient"]),
            ("image in two parts", "images in two parts", found[found["what"] == "image"]),
            ("pair of near-duplicate images", "pairs of near-duplicate images", near),
        )
        if len(pairs)
    ]
    return "; ".join(lines)


def _grids(store: Store) -> dict[str, Figure]:
    """One image for each label, and random samples; each named by its row."""
    chosen = summary.example_rows(store.index, store.labels)
    out = {}
    if chosen:
        titles = [f"{plots.shorten(label, 24)}\nrow {row}" for label, row in chosen.items()]
        out["one_a_label"] = plots.grid(store.pictures(list(chosen.values())), titles)
    rows = summary.sample(store.index, GRID)
    if rows:
        out["samples"] = plots.grid(store.pictures(rows), [f"row {row}" for row in rows])
    return out
