"""PadChest (Bustos et al. 2020, arXiv:1901.07441): one table with a list of findings in each row, and 16-bit PNGs."""

import ast

import numpy as np
import pandas as pd
from pydantic import Field

from cxr_ray.datasets.base import Records, is_unremarkable, need_columns, records_table
from cxr_ray.datasets.cells import TEXT, matched, named, numbers, read_text, text
from cxr_ray.datasets.folders import below, by_name, file_like, placed
from cxr_ray.labels import Filter, safe_name
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import Place

SAYS_NOTHING = ("exclude", "suboptimal study", "unchanged")
"""What a report is labelled with that tells no finding, present or absent."""
VIEWS = {"L": "lateral", "AP_horizontal": "AP supine", "COSTAL": "ribs", "EXCLUDE": "other"}
FILTERS = (
    Filter(name="frontal", query="view in ['PA', 'AP', 'AP supine']", about="frontal images only"),
    Filter(name="told", query="told", about="some reports were excluded, unreadable, or say only that nothing changed"),
)


class PadChestOptions(Options):
    """What only PadChest needs to be told."""

    min_images: int = Field(default=1, ge=1)
    """Findings of fewer images get no label column; the published table names some 190, many of them a handful of times."""


@SOURCES.register("padchest", PadChestOptions)
def padchest(root: Place, options: PadChestOptions) -> Records:
    """PadChest: PADCHEST_chest_x_ray_images_labels_160K*.csv (or .csv.gz) beside the images, in folders 0 to 54 or in one.

    A row's `Labels` is a list as text; what it names is positive, every other finding of the table negative. A row without a
    list, or that names only exclude, suboptimal study or unchanged, is not mentioned throughout and has `told` False.
    `labelled_by` is Physician or RNN_model. Age is the study's year less the year of birth. Raises `UserError` for a missing
    table or column, and for a list that cannot be read."""
    path = file_like(root, "*labels_160K*.csv*")
    raw = read_text(path, like="PadChest's table")
    need_columns(raw, ("ImageID", "StudyID", "PatientID", "Projection", "Labels"), path)
    name = raw["ImageID"].str.strip()
    labels = _findings(raw["Labels"], path)
    told = np.any([values == 1 for label, values in labels.items() if label not in SAYS_NOTHING], axis=0)
    labels = {k: v if k in SAYS_NOTHING else np.where(told, v, np.float32(np.nan)) for k, v in labels.items()}
    labels = {k: v for k, v in labels.items() if (v == 1).sum() >= options.min_images}
    columns = {
        "image": placed(name, by_name(root, [""]), below(_column(raw, "ImageDir"), name)),
        "patient": text(raw["PatientID"]),
        "study": text(raw["StudyID"]),
        "view": text(raw["Projection"]).replace(VIEWS),
        "sex": text(_column(raw, "PatientSex_DICOM")),
        "age": _ages(raw, path),
        "labelled_by": text(_column(raw, "MethodLabel")),
        "told": told,
    }
    return Records(
        table=records_table(columns, labels, rows=len(raw)),
        labels=tuple(labels),
        task="multilabel",
        groups={},
        filters=FILTERS,
        default_labels=tuple(k for k in labels if k not in SAYS_NOTHING and not is_unremarkable(k)),
        features=("view", "sex", "labelled_by"),
        notes=(),
        boxes=None,
    )


def _findings(cells: "pd.Series[str]", path: Place) -> dict[str, np.ndarray]:
    found = named(cells, path, split=_listed)
    safe: dict[str, np.ndarray] = {}
    for name, values in found.items():
        safe[safe_name(name)] = np.fmax(values, safe.get(safe_name(name), values))
    return safe


def _listed(cell: str) -> list[str]:
    """`['pulmonary fibrosis', ' chronic changes', '']` as its names."""
    try:
        names = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        names = None
    if not isinstance(names, list):
        raise ValueError("no list such as ['normal']; is the download whole?")
    return [str(name) for name in names]


def _ages(raw: pd.DataFrame, path: Place) -> np.ndarray | None:
    if not {"StudyDate_DICOM", "PatientBirth"} <= set(raw.columns):
        return None
    year = matched(raw["StudyDate_DICOM"].str.strip(), r"^(?P<year>\d{4})\d{4}$")["year"]
    return pd.to_numeric(year).to_numpy(np.float64) - numbers(raw, "PatientBirth", path)


def _column(raw: pd.DataFrame, name: str) -> "pd.Series[str]":
    """A column that not every copy of the table has: blank where it is not there."""
    return raw[name].str.strip() if name in raw else pd.Series("", index=raw.index, dtype=TEXT)
