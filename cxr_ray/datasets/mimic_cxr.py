"""MIMIC-CXR-JPG (Johnson et al. 2019, arXiv:1901.07042): images of studies, and one row of labels per study."""

from typing import Literal

import numpy as np
import pandas as pd

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import Records, records_table
from cxr_ray.datasets.cells import clean_codes, parse_labels, parse_parts
from cxr_ray.datasets.chexpert import COMPETITION5, NO_FINDINGS
from cxr_ray.datasets.chexpert import LABELS as CHEXPERT
from cxr_ray.datasets.folders import find_file, join_folder
from cxr_ray.datasets.tables import find_rows, read_text_table, require_columns
from cxr_ray.labels import Filter
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import AnyPath

LABELS = tuple(sorted(CHEXPERT))
"""The 14 labels of CheXpert, in MIMIC's order."""
FILTERS = (
    Filter(name="frontal", query="view in ['AP', 'PA']", about="frontal images only; a few have no view"),
    Filter(name="labelled", query="labelled", about="some reports were too short for the labeler"),
)


class MimicOptions(Options):
    """Options of MIMIC-CXR."""

    labeler: Literal["chexpert", "negbio"] = "chexpert"
    """Program whose labels of the reports are used."""


@SOURCES.register("mimic_cxr", MimicOptions)
def mimic_cxr(root: AnyPath, options: MimicOptions) -> Records:
    """MIMIC-CXR-JPG: the folder with files/ and mimic-cxr-*-metadata, -split, -chexpert and -negbio (.csv or .csv.gz).

    One row per image of the metadata; all images of a study have the study's labels. `labelled` is False for studies without
    a row of the labeler, where no label is mentioned. Patients and studies have the names of their folders. Age and sex are
    in MIMIC-IV, not here. `split` is the official one, with `validate` as val. Raises `UserError` for a missing table or
    column, and for a study or an image that a table lists twice."""
    tables = {kind: find_file(root, f"mimic-cxr-*-{kind}.csv*") for kind in ("metadata", "split", options.labeler)}
    meta, split, raw = (read_text_table(path, what="MIMIC's table") for path in tables.values())
    meta_path, split_path, raw_path = tables.values()
    require_columns(meta, ("dicom_id", "subject_id", "study_id", "ViewPosition"), meta_path)
    require_columns(split, ("dicom_id", "split"), split_path)
    require_columns(raw, ("subject_id", "study_id", *LABELS), raw_path)
    patient, study = "p" + meta["subject_id"].str.strip(), "s" + meta["study_id"].str.strip()
    dicom = meta["dicom_id"].str.strip()
    folder = "files/" + patient.str.slice(0, 3) + "/" + patient + "/" + study
    row_N = find_rows(study, "s" + raw["study_id"].str.strip(), raw_path, what="study")
    known_N = row_N >= 0
    labels = {k: np.where(known_N, parse_labels(raw, k, raw_path)[row_N], np.float32(np.nan)) for k in LABELS}
    split_row_N = find_rows(meta["dicom_id"], split["dicom_id"], split_path, what="image")
    columns = {
        "image": join_folder(folder, (dicom + ".jpg").where(dicom != "", "")),
        "patient": patient,
        "study": study,
        "view": clean_codes(meta["ViewPosition"]).replace({"LATERAL": "lateral"}),
        "split": pd.Series(parse_parts(split["split"], split_path).array.take(split_row_N, allow_fill=True)),
        "labelled": known_N,
    }
    unlabelled = int((~known_N).sum())
    return Records(
        table=records_table(columns, labels, rows=len(meta)),
        info=DatasetInfo(
            labels=LABELS,
            task="multilabel",
            groups={"competition5": COMPETITION5},
            filters=FILTERS,
            default_labels=tuple(k for k in LABELS if k not in NO_FINDINGS),
            features=("view",),
            notes=(f"{unlabelled} images are of studies that {options.labeler} did not label",) if unlabelled else (),
        ),
    )
