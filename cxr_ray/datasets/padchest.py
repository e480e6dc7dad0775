"""PadChest (Bustos et al. 2020, arXiv:1901.07441): one table with a list of findings per row, and 16-bit PNGs."""

import ast

import numpy as np
import pandas as pd
from pydantic import Field

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import Records, records_table
from cxr_ray.datasets.cells import FIX, Floats, clean_codes, clean_text, parse_findings
from cxr_ray.datasets.classes import is_unremarkable
from cxr_ray.datasets.folders import find_file, join_folder, locate, paths_by_name
from cxr_ray.datasets.hierarchy import GRAPHS, add_parents
from cxr_ray.datasets.persons import known_ages, parse_sex, parse_years
from cxr_ray.datasets.tables import TEXT, read_text_table, require_columns
from cxr_ray.labels import Filter, safe_name
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import AnyPath

UNINFORMATIVE = ("exclude", "suboptimal study", "unchanged")
"""Labels of reports that state neither the presence nor the absence of a finding."""
VIEWS = {"L": "lateral", "AP_horizontal": "AP supine", "COSTAL": "ribs", "EXCLUDE": "other"}
FILTERS = (
    Filter(name="frontal", query="view in ['PA', 'AP', 'AP supine']", about="frontal images only"),
    Filter(name="told", query="told", about="some reports were excluded, unreadable, or say only that nothing changed"),
)


class PadChestOptions(Options):
    """Options of PadChest."""

    min_images: int = Field(default=1, ge=1)
    """Minimum number of images of a finding with a label column. The published table has about 190 findings, many of them rare."""


@SOURCES.register("padchest", PadChestOptions)
def padchest(root: AnyPath, options: PadChestOptions) -> Records:
    """PadChest: PADCHEST_chest_x_ray_images_labels_160K*.csv (or .csv.gz) next to the images, in folders 0 to 54 or in one.

    A row's `Labels` is a list as text: its findings are positive, all other findings of the table negative. The list names the
    most special finding only, so a finding is also positive for those that it is a kind of (rib fracture for fracture); a finding
    of which only a related one is named is unknown (padchest_findings.py). If a row has no list, or lists only exclude,
    suboptimal study or unchanged, no finding is mentioned and `told` is False. `labelled_by` is Physician or RNN_model. Age is the
    year of the study minus the year of birth. Raises `UserError` for a missing table or column, and for a list, a date or a year
    that cannot be read."""
    path = find_file(root, "*labels_160K*.csv*")
    raw = read_text_table(path, what="PadChest's table")
    require_columns(raw, ("ImageID", "StudyID", "PatientID", "Projection", "Labels"), path)
    name = raw["ImageID"].str.strip()
    labels = _findings(raw["Labels"], path)
    informative_N = np.any([values == 1 for label, values in labels.items() if label not in UNINFORMATIVE], axis=0)
    labels = {k: v if k in UNINFORMATIVE else np.where(informative_N, v, np.float32(np.nan)) for k, v in labels.items()}
    labels, label_notes = _add_parents(labels)
    ages, age_notes = _ages(raw, path)
    labels = {k: v for k, v in labels.items() if (v == 1).sum() >= options.min_images}
    columns = {
        "image": locate(name, paths_by_name(root, [""]), join_folder(_column(raw, "ImageDir"), name)),
        "patient": clean_text(raw["PatientID"]),
        "study": clean_text(raw["StudyID"]),
        "view": clean_codes(raw["Projection"]).replace(VIEWS),
        "sex": parse_sex(_column(raw, "PatientSex_DICOM")),
        "age": ages,
        "labelled_by": clean_codes(_column(raw, "MethodLabel")),
        "told": informative_N,
    }
    return Records(
        table=records_table(columns, labels, rows=len(raw)),
        info=DatasetInfo(
            labels=tuple(labels),
            task="multilabel",
            blank_is_unknown=True,
            filters=FILTERS,
            default_labels=tuple(k for k in labels if k not in UNINFORMATIVE and not is_unremarkable(k)),
            features=("view", "sex", "labelled_by"),
            notes=(*label_notes, *age_notes),
        ),
    )


def _findings(cells: "pd.Series[str]", path: AnyPath) -> dict[str, np.ndarray]:
    found = parse_findings(cells, path, split=_split_list)
    safe: dict[str, np.ndarray] = {}
    for name, values in found.items():
        safe[safe_name(name)] = np.fmax(values, safe.get(safe_name(name), values))
    return safe


def _split_list(cell: str) -> list[str]:
    """The names in text such as `['pulmonary fibrosis', ' chronic changes', '']`; the published table has `nan` for no list."""
    if cell == "nan":
        return []
    try:
        names = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        names = None
    if not isinstance(names, list):
        raise ValueError(f"not a list such as ['normal']; {FIX}")
    return [str(name) for name in names]


def _add_parents(labels: dict[str, Floats]) -> tuple[dict[str, Floats], list[str]]:
    """The labels, sorted, with what a finding says about those above it; and a note that counts the changes."""
    found = add_parents(labels, *GRAPHS["padchest"])
    raised = {
        k: int(((v == 1) & (labels[k] != 1)).sum()) if k in labels else int((v == 1).sum()) for k, v in found.items()
    }
    masked = {k: int((np.isnan(found[k]) & ~np.isnan(v)).sum()) for k, v in labels.items()}
    notes = []
    if any(raised.values()):
        notes.append(
            f"the table names only the most special finding: {sum(raised.values()):,} cells of "
            f"{sum(map(bool, raised.values()))} labels are positive because a kind of the finding is named"
        )
    if any(masked.values()):
        notes.append(
            f"{sum(masked.values()):,} cells of {sum(map(bool, masked.values()))} labels are unknown, because only a related "
            "finding is named, and are masked"
        )
    return dict(sorted(found.items())), notes


def _ages(raw: pd.DataFrame, path: AnyPath) -> tuple[np.ndarray | None, list[str]]:
    if not {"StudyDate_DICOM", "PatientBirth"} <= set(raw.columns):
        return None, []
    return known_ages(parse_years(raw, "StudyDate_DICOM", path) - parse_years(raw, "PatientBirth", path))


def _column(raw: pd.DataFrame, name: str) -> "pd.Series[str]":
    """A column that some copies of the table do not have: blank in those."""
    return raw[name].str.strip() if name in raw else pd.Series("", index=raw.index, dtype=TEXT)
