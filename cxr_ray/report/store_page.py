"""The page of a store, and its figures as PNG. The numbers are data/summary.py, the plots plotting/store_plots.py."""

import base64
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from cxr_ray import config as cfg
from cxr_ray.data import leakage, summary, view
from cxr_ray.data import plan as plans
from cxr_ray.data.filters import dropping_filter
from cxr_ray.data.store import Store
from cxr_ray.errors import UserError
from cxr_ray.labels import POSITIVE, label_values
from cxr_ray.metrics import prevalence
from cxr_ray.plotting import store_plots as plots
from cxr_ray.plotting.plots import STYLE, Figure, png
from cxr_ray.report.render import jinja
from cxr_ray.storage.atomic import make_folder, write_atomic

GRID = 24  # images in the grid of samples
HISTOGRAM = 400  # images whose gray values are counted


def write(
    store: Store, out: Path, *, pictures: bool = True, top: int = 30, seen: str = "", split: cfg.Split | None = None
) -> Path:
    """Write `describe.html`, its figures as PNG and, for several labels, every label vector as CSV into the folder `out`; returns
    the page's path.

    `pictures`: whether the page shows images (named by row, never by patient). `top`: number of label vectors listed. `seen`: by
    which settings rows and labels were selected (`view.selected`), and `split` those of the split that is shown.
    Equal stores give equal pages. Raises `UserError` if `out` cannot be created."""
    make_folder(out.absolute())
    index, labels = store.index, list(store.labels)
    frequency = summary.label_frequency(index, labels)
    vectors = summary.label_vectors(index, labels)
    sizes = summary.original_sizes(index)
    parts, split_note = _parts(store, split or cfg.Split())
    sampled = summary.sample(index, HISTOGRAM)
    about = f"{len(index):,} images of {store.name}"
    with matplotlib.rc_context(STYLE):
        plotted: dict[str, Figure] = {
            "label_frequency": plots.class_counts(frequency, about)
            if store.task == "multiclass"
            else plots.label_frequency(frequency, about)
        }
        if store.task == "multilabel":
            plotted["label_vectors"] = plots.label_vectors(vectors, about=about)
            plotted["findings"] = plots.findings(summary.findings_per_image(index, labels), about)
            if len(labels) > 1:
                plotted["co_occurrence"] = plots.co_occurrence(summary.co_occurrence(index, labels), about)
        if parts:
            plotted["split_balance"] = plots.split_balance(parts, list(next(iter(parts.values()))["labels"]), about)
        plotted["pixels"] = plots.pixels(index, store.pictures(sampled), about)
        plotted["sizes"] = plots.sizes(sizes)
        if pictures:
            plotted |= _grids(store)
        figures = {name: png(figure) for name, figure in plotted.items()}
    page = (
        jinja()
        .get_template("store.html")
        .render(
            store=store,
            seen=seen,
            warnings=view.warnings_of(store),
            kept=_kept(store),
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
    if store.task == "multilabel":
        write_atomic(out / "label_vectors.csv", summary.label_vectors_table(vectors, labels).to_csv(index=False))
    for name, body in figures.items():
        write_atomic(out / f"{name}.png", body)
    write_atomic(out / "describe.html", page)
    return out / "describe.html"


def _kept(store: Store) -> str:
    """How many rows the declared cleaning keeps; empty without filters."""
    if not store.info.filters:
        return ""
    rules = ", ".join(rule.name for rule in store.info.filters)
    kept = int((dropping_filter(store.index, store.info.filters) == "").sum())
    return f"cleaning rules of the source ({rules}): keep {kept:,} of {len(store.index):,}"


def _parts(store: Store, split: cfg.Split) -> tuple[dict[str, Any], str]:
    """The prevalence of each part of a split, and a line that describes it, or why there is none."""
    data = cfg.Data(split=split)
    try:
        plan = plans.build(store, data, seed=0)
    except UserError as error:
        which = "The default settings" if split == cfg.Split() else "These settings"
        return {}, f"{which} cannot split these rows: {error}."
    patient = store.index.set_index("row")["patient"]
    parts = {
        part: prevalence(plan.truth[part], labels=plan.labels, patients=patient.loc[rows.tolist()])
        for part, rows in plan.rows.items()
        if len(rows)
    }
    rows_in_parts = sum(len(rows) for rows in plan.rows.values())
    return parts, (
        f"The split of a run with {'default' if split == cfg.Split() else 'these'} settings: {rows_in_parts:,} rows"
        f"{' after the declared cleaning' if store.info.filters else ''}, by {split.by}, "
        f"val {_share(split.val)}, test {_share(split.test)}, seed {split.seed}."
    )


def _share(part: Any) -> str:
    return part if isinstance(part, str) else f"{part:g}"


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
        out["one_a_label"] = plots.grid(
            store.pictures(list(chosen.values())), titles, title=f"One image per label of {store.name}"
        )
    rows = summary.sample(store.index, GRID)
    if rows:
        index = store.index.set_index("row")
        positive = label_values(index.loc[rows], store.labels) == POSITIVE
        texts = [
            f"row {row}\n"
            + textwrap.fill(" + ".join(str(label) for label, on in of.items() if on) or "no label", 25, max_lines=3)
            for row, of in positive.iterrows()
        ]
        out["samples"] = plots.grid(
            store.pictures(rows), texts, title=f"Random images of {store.name} and their labels"
        )
    return out
