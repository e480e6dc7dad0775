"""The pictures of a store: each figure as PNG, and one HTML page of them all. What is counted is describe.py's."""

import base64
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cxr_ray import config as cfg
from cxr_ray.data import leakage, summary
from cxr_ray.data import plan as plans
from cxr_ray.data.store import Store
from cxr_ray.errors import UserError
from cxr_ray.metrics import prevalence
from cxr_ray.report import store_plots as plots
from cxr_ray.report.plots import STYLE, png
from cxr_ray.report.render import jinja
from cxr_ray.storage.atomic import make_folder, write_atomic

GRID = 24  # pictures in the grid of samples
HISTOGRAM = 400  # pictures whose gray values are counted


def write(store: Store, out: Path, *, pictures: bool = True, top: int = 30) -> Path:
    """Write `describe.html` and its figures as PNG into the folder `out`; gives the page's path.

    `pictures`: whether X-rays themselves are shown; they are named by row, and no patient is. `top`: label vectors listed.
    Equal stores give equal pages. Raises `UserError` where `out` cannot be made."""
    make_folder(out.absolute())
    index, labels = store.index, list(store.labels)
    frequency = summary.label_frequency(index, labels)
    vectors = summary.label_vectors(index, labels)
    sizes = summary.original_sizes(index)
    parts, split_note = _parts(store)
    sampled = summary.sample(index, HISTOGRAM)
    with matplotlib.rc_context(STYLE):
        drawn: dict[str, Figure] = {"label_frequency": plots.label_frequency(frequency)}
        if store.task == "multilabel":
            drawn["label_vectors"] = plots.label_vectors(vectors)
            drawn["findings"] = plots.findings(summary.findings_per_image(index, labels))
            if len(labels) > 1:
                drawn["co_occurrence"] = plots.co_occurrence(summary.together(index, labels))
        if parts:
            drawn["split_balance"] = plots.split_balance(parts, list(next(iter(parts.values()))["labels"]))
        drawn["pixels"] = plots.pixels(index, store.pictures(sampled))
        drawn["sizes"] = plots.sizes(sizes)
        if pictures:
            drawn |= _grids(store)
        figures = {name: png(figure) for name, figure in drawn.items()}
    page = (
        jinja()
        .get_template("data.html")
        .render(
            store=store,
            size=summary.size(index),
            frequency=frequency.to_dict("records"),
            uncertain=bool(frequency[["uncertain", "blank"]].to_numpy().any()),
            vectors=[
                {**row, "name": " + ".join(row["labels"]) or "none"} for row in vectors.head(top).to_dict("records")
            ],
            vectors_in_all=len(vectors),
            official=summary.splits(index, labels, store.features).to_dict("split"),
            leaks=_leaks(store),
            parts=parts,
            split_note=split_note,
            pixel=summary.pixel_statistics(index),
            sizes=sizes.head(8).to_dict("records"),
            sizes_in_all=len(sizes),
            figures={
                name: {
                    "uri": "data:image/png;base64," + base64.b64encode(body).decode(),
                    "width": round(
                        100 * drawn[name].get_size_inches()[0]
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
    """`metrics.prevalence` of each part as a run with default knobs would cut them, and a line that says so, or why not."""
    data = cfg.Data()
    try:
        plan = plans.build(store, data, seed=0)
    except UserError as error:
        return {}, f"A run with default knobs cannot split these rows: {error}."
    patient = store.index.set_index("row")["patient"]
    parts = {
        part: prevalence(plan.truth[part], labels=plan.labels, patients=patient.loc[rows.tolist()])
        for part, rows in plan.rows.items()
        if len(rows)
    }
    kept = sum(len(rows) for rows in plan.rows.values())
    return parts, (
        f"As a run with default knobs cuts them: {kept:,} rows after the declared cleaning, by {data.split.by}, "
        f"val {data.split.val:g}, test {data.split.test:g}, seed {data.split.seed}."
    )


def _leaks(store: Store) -> str:
    """What stands in two of the dataset's own parts, by row; empty where nothing does."""
    index = store.index
    listed = index[index["split"].notna()]
    part_N = listed["split"].to_numpy(object)
    found = leakage.between(listed, part_N, by_patient=True)
    rows = {part: listed["row"].to_numpy(np.int64)[part_N == part] for part in plans.PARTS}
    near = leakage.near(listed, rows, distance=cfg.Split().near_duplicates or 0, images=store.pictures)
    said = [
        f"{len(pairs):,} {what} ({leakage.told(pairs)})"
        for what, pairs in (
            ("times one patient", found[found["what"] == "patient"]),
            ("times one picture", found[found["what"] == "picture"]),
            ("pairs of pictures that look like one", near),
        )
        if len(pairs)
    ]
    return "; ".join(said)


def _grids(store: Store) -> dict[str, Figure]:
    """One sample a label, and samples of all; each named by its row."""
    chosen = summary.one_a_label(store.index, store.labels)
    out = {}
    if chosen:
        titles = [f"{plots.shorten(label, 24)}\nrow {row}" for label, row in chosen.items()]
        out["one_a_label"] = plots.grid(store.pictures(list(chosen.values())), titles)
    rows = summary.sample(store.index, GRID)
    if rows:
        out["samples"] = plots.grid(store.pictures(rows), [f"row {row}" for row in rows])
    return out
