"""The covid-chestxray-dataset of ieee8023 (Cohen et al. 2020, arXiv:2006.11988): images from publications, one table."""

import re
from itertools import pairwise

import numpy as np
import pandas as pd

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import Records, records_table
from cxr_ray.datasets.cells import clean_text, parse_findings, url_host
from cxr_ray.datasets.classes import is_unremarkable
from cxr_ray.datasets.folders import find_file, join_folder
from cxr_ray.datasets.hierarchy import add_parents
from cxr_ray.datasets.persons import parse_ages, parse_sex
from cxr_ray.datasets.tables import read_text_table, require_columns
from cxr_ray.labels import Filter, safe_name
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import AnyPath

UNKNOWN = ("todo", "unknown")
"""Findings, in lower case, of images that were not labelled yet."""
VIEWS = {"L": "lateral", "AP Supine": "AP supine"}
CT_VIEWS = ("CT", "Axial", "Coronal", "Axial CT", "Coronal CT")
FILTERS = (
    Filter(name="X-ray", query="modality == 'X-ray'", about="the table also lists CT slices"),
    Filter(name="frontal", query="view in ['PA', 'AP', 'AP supine']", about="frontal images only"),
)
NOTE = (
    "the images come from publications and web pages, and a finding often comes from one of them: metrics are too high if a "
    "model recognises the source"
)


@SOURCES.register("covid_chestxray")
def covid_chestxray(root: AnyPath, options: Options) -> Records:
    """The covid-chestxray-dataset of ieee8023: metadata.csv next to images/ (early and late releases of the table).

    A finding such as Pneumonia/Viral/COVID-19 makes its three labels positive and all other labels of the table negative; so does
    COVID-19 alone, if another row of the table has the complete path.
    With `todo` and `Unknown` no label is mentioned. CT slices have `modality` CT, and the declared cleaning drops them. CT
    volumes (.nii) are not images: they are dropped here, with a note. `url` is the image's URL, `source` the host of that. Raises
    `UserError` for a missing table or column."""
    path = find_file(root, "metadata.csv")
    raw = read_text_table(path, what="the table of the collection")
    raw.columns = pd.Index([str(column).strip().casefold() for column in raw.columns])  # Patientid, patientid, " url"
    require_columns(raw, ("patientid", "finding", "view", "filename"), path)
    volume = raw["filename"].str.strip().str.casefold().str.endswith((".nii", ".nii.gz")).to_numpy()
    rows = raw[~volume].reset_index(drop=True)
    blank = pd.Series("", index=rows.index)
    folder = clean_text(rows.get("folder", blank)).fillna("images")
    view = clean_text(rows["view"])
    modality = clean_text(rows.get("modality", blank)).fillna(view.isin(CT_VIEWS).map({True: "CT", False: "X-ray"}))
    finding = clean_text(rows["finding"])
    finding = finding.mask(finding.str.casefold().isin(UNKNOWN))
    labels = parse_findings(finding, path, split=lambda cell: re.split(r"[/,]", cell))
    labels = add_parents(labels, _kinds(finding))
    age: np.ndarray | None = None
    notes: list[str] = []
    if "age" in raw:  # of the whole table, so that an error names its row there
        ages, notes = parse_ages(raw.assign(age=raw["age"].mask(volume, "")), "age", path)
        age = ages[~volume]
    labels = {safe_name(label): values for label, values in labels.items()}
    name = rows["filename"].str.strip()
    columns = {
        "image": join_folder(folder, name),
        "source_row": np.flatnonzero(~volume),
        "patient": clean_text(rows["patientid"]),
        "view": view.replace(VIEWS),
        "sex": parse_sex(rows.get("sex", blank)),
        "age": age,
        "source": clean_text(rows.get("url", blank).map(url_host)),
        "modality": modality,
        "url": clean_text(rows.get("url", blank)),
    }
    volumes = int(volume.sum())
    return Records(
        table=records_table(columns, labels, rows=len(rows)),
        info=DatasetInfo(
            labels=tuple(labels),
            task="multilabel",
            blank_is_unknown=True,
            filters=FILTERS,
            default_labels=tuple(label for label in labels if not is_unremarkable(label)),
            features=("view", "sex", "source"),
            notes=(
                NOTE,
                *notes,
                *([f"{volumes} CT volumes (.nii) of the table are not images and were dropped"] if volumes else []),
            ),
        ),
    )


def _kinds(finding: "pd.Series[str]") -> dict[str, tuple[str, ...]]:
    """The findings below each other one, by the paths of the table."""
    kinds: dict[str, set[str]] = {}
    for cell in finding.dropna().unique():
        for path in cell.split(","):
            names = [name.strip() for name in path.split("/")]
            for parent, child in pairwise(names):
                kinds.setdefault(parent, set()).add(child)
    return {parent: tuple(sorted(children)) for parent, children in kinds.items()}
