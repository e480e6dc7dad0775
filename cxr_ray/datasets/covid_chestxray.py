"""The covid-chestxray-dataset of ieee8023 (Cohen et al. 2020, arXiv:2006.11988): pictures from publications, one table."""

import re

import numpy as np
import pandas as pd

from cxr_ray.datasets.base import Records, is_unremarkable, need_columns, records_table
from cxr_ray.datasets.cells import host, named, numbers, read_text, text
from cxr_ray.datasets.folders import below, file_like
from cxr_ray.labels import Filter, safe_name
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import Place

UNKNOWN = ("todo", "unknown")
"""Findings, in lower case, that say that nobody looked yet."""
VIEWS = {"L": "lateral", "AP Supine": "AP supine"}
CT_VIEWS = ("CT", "Axial", "Coronal", "Axial CT", "Coronal CT")
FILTERS = (
    Filter(name="X-ray", query="modality == 'X-ray'", about="slices of CT stand in the same table"),
    Filter(name="frontal", query="view in ['PA', 'AP', 'AP supine']", about="frontal images only"),
)
NOTE = (
    "the pictures were gathered from publications and web pages, and a finding often goes with one of them: accuracy flatters "
    "where it recognises the source"
)


@SOURCES.register("covid_chestxray")
def covid_chestxray(root: Place, options: Options) -> Records:
    """The covid-chestxray-dataset of ieee8023: metadata.csv beside images/ (early and late releases of the table).

    A finding such as Pneumonia/Viral/COVID-19 is positive for each of its three labels and negative for all others of the
    table; `todo` and `Unknown` are not mentioned. CT slices are kept, told by the column `modality`, and left out by
    the declared cleaning; CT volumes (.nii) are no pictures and are left out here, with a note. `source` is the host of the
    picture's URL. Raises `UserError` for a missing table or column."""
    path = file_like(root, "metadata.csv")
    raw = read_text(path, like="the table of the collection")
    raw.columns = pd.Index([str(column).strip().casefold() for column in raw.columns])  # Patientid, patientid, " url"
    need_columns(raw, ("patientid", "finding", "view", "filename"), path)
    volume = raw["filename"].str.strip().str.casefold().str.endswith((".nii", ".nii.gz")).to_numpy()
    kept = raw[~volume].reset_index(drop=True)
    blank = pd.Series("", index=kept.index)
    folder = text(kept.get("folder", blank)).fillna("images")
    view = text(kept["view"])
    modality = text(kept.get("modality", blank)).fillna(view.isin(CT_VIEWS).map({True: "CT", False: "X-ray"}))
    finding = text(kept["finding"])
    labels = named(finding.mask(finding.str.casefold().isin(UNKNOWN)), path, split=lambda cell: re.split(r"[/,]", cell))
    labels = {safe_name(label): values for label, values in labels.items()}
    name = kept["filename"].str.strip()
    columns = {
        "image": below(folder, name),
        "source_row": np.flatnonzero(~volume),
        "patient": text(kept["patientid"]),
        "view": view.replace(VIEWS),
        "sex": text(kept.get("sex", blank)),
        "age": numbers(kept, "age", path) if "age" in kept else None,
        "source": text(kept.get("url", blank).map(host)),
        "modality": modality,
    }
    left = int(volume.sum())
    return Records(
        table=records_table(columns, labels, rows=len(kept)),
        labels=tuple(labels),
        task="multilabel",
        groups={},
        filters=FILTERS,
        default_labels=tuple(label for label in labels if not is_unremarkable(label)),
        features=("view", "sex", "source"),
        notes=(NOTE, *([f"{left} CT volumes (.nii) of the table are no pictures and were left out"] if left else [])),
        boxes=None,
    )
