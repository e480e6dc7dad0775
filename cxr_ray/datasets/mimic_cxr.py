"""MIMIC-CXR-JPG (Johnson et al. 2019, arXiv:1901.07042): images of studies, and one row of labels a study."""

from typing import Literal

import numpy as np
import pandas as pd

from cxr_ray.datasets.base import Records, need_columns, records_table
from cxr_ray.datasets.cells import marks, parts, read_text, rows_of, text
from cxr_ray.datasets.chexpert import COMPETITION5
from cxr_ray.datasets.chexpert import LABELS as CHEXPERT
from cxr_ray.datasets.folders import below, file_like
from cxr_ray.labels import Filter
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import Place

LABELS = tuple(sorted(CHEXPERT))
"""The 14 of CheXpert, in MIMIC's order."""
FILTERS = (
    Filter(name="frontal", query="view in ['AP', 'PA']", about="frontal images only; a few have no view"),
    Filter(name="labelled", query="labelled", about="some reports were too short for the labeler"),
)


class MimicOptions(Options):
    """What only MIMIC-CXR needs to be told."""

    labeler: Literal["chexpert", "negbio"] = "chexpert"
    """Which of the two programs that read the reports is believed."""


@SOURCES.register("mimic_cxr", MimicOptions)
def mimic_cxr(root: Place, options: MimicOptions) -> Records:
    """MIMIC-CXR-JPG: the folder with files/ and mimic-cxr-*-metadata, -split, -chexpert and -negbio (.csv or .csv.gz).

    One row an image of the metadata; a study's labels are those of all its images. `labelled` is False for studies that
    the labeler has no row of, which are not mentioned throughout. Patients and studies are called as their folders are; age and
    sex are in MIMIC-IV, not here. `split` is the official one, its `validate` val. Raises `UserError` for a missing table or
    column, and for a study or an image that a table lists twice."""
    tables = {kind: file_like(root, f"mimic-cxr-*-{kind}.csv*") for kind in ("metadata", "split", options.labeler)}
    meta, split, raw = (read_text(path, like="MIMIC's table") for path in tables.values())
    at, split_at, raw_at = tables.values()
    need_columns(meta, ("dicom_id", "subject_id", "study_id", "ViewPosition"), at)
    need_columns(split, ("dicom_id", "split"), split_at)
    need_columns(raw, ("subject_id", "study_id", *LABELS), raw_at)
    patient, study = "p" + meta["subject_id"].str.strip(), "s" + meta["study_id"].str.strip()
    dicom = meta["dicom_id"].str.strip()
    folder = "files/" + patient.str.slice(0, 3) + "/" + patient + "/" + study
    row_N = rows_of(study, "s" + raw["study_id"].str.strip(), raw_at, like="study")
    known_N = row_N >= 0
    labels = {k: np.where(known_N, marks(raw, k, raw_at)[row_N], np.float32(np.nan)) for k in LABELS}
    part_N = rows_of(meta["dicom_id"], split["dicom_id"], split_at, like="image")
    columns = {
        "image": below(folder, (dicom + ".jpg").where(dicom != "", "")),
        "patient": patient,
        "study": study,
        "view": text(meta["ViewPosition"]).replace({"LATERAL": "lateral"}),
        "split": pd.Series(parts(split["split"], split_at).array.take(part_N, allow_fill=True)),
        "labelled": known_N,
    }
    left = int((~known_N).sum())
    return Records(
        table=records_table(columns, labels, rows=len(meta)),
        labels=LABELS,
        task="multilabel",
        groups={"competition5": COMPETITION5},
        filters=FILTERS,
        default_labels=tuple(k for k in LABELS if k not in ("No Finding", "Support Devices")),
        features=("view",),
        notes=(f"{left} images are of studies that {options.labeler} did not label",) if left else (),
        boxes=None,
    )
