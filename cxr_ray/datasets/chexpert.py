"""CheXpert (Irvin et al. 2019, arXiv:1901.07031): its tables, their codes, and the recommended cleaning."""

import re

import numpy as np
import pandas as pd

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import Records, records_table
from cxr_ray.datasets.cells import FIX, clean_codes, extract_groups, parse_numbers
from cxr_ray.datasets.folders import find_file, subfolders
from cxr_ray.datasets.persons import parse_ages, parse_sex
from cxr_ray.datasets.tables import read_text_table, require_columns, row_error
from cxr_ray.errors import quoted
from cxr_ray.labels import Filter
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import AnyPath

LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
NO_FINDINGS = ("No Finding", "Support Devices")
"""Labels that are no findings: not among the default labels."""
COMPETITION5 = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
FILTERS = (
    Filter(name="frontal", query="view != 'lateral'", about="frontal images only"),
    Filter(
        name="AP or PA", query="view in ['AP', 'PA']", about="some frontal rows are LL or RL, which are lateral views"
    ),
    Filter(
        name="at most 4 studies", query="study_number <= 4", about="a patient's first four studies; some have over 90"
    ),
)
TABLES = {"train.csv": "train", "valid.csv": "val"}
BATCH = re.compile(r"CheXpert-v1\.0 batch \d+ \(.*\)")


@SOURCES.register("chexpert")
def chexpert(root: AnyPath, options: Options) -> Records:
    """CheXpert and CheXpert-small: the folder with train.csv (and valid.csv, whose rows are the official val part).

    `view` is AP, PA, LL or RL, and `lateral` for every lateral row. `study` is patientNNNNN/studyN; the extra column
    `study_number` has its number. An age of 0 is unknown. The `CheXpert-v1.0 batch N (...)` folders of the full release
    are found too, with the tables next to them or in one of them. Raises `UserError` for a missing table or column."""
    batches = [name for name in subfolders(root) if BATCH.fullmatch(name)]
    folders = [root, *(root / name for name in batches)]
    frames, notes = [], []
    for name, part in TABLES.items():
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is not None:
            frame, found = _table(path, part)
            frames.append(frame)
            notes += found
        elif name == "train.csv":
            find_file(root, name)  # its error names a subfolder that has the file
    table = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    if batches and not (root / "train").is_dir():
        table["image"] = _in_batches(table["image"], root, batches)
    return Records(
        table=table,
        info=DatasetInfo(
            labels=LABELS,
            task="multilabel",
            groups={"competition5": COMPETITION5},
            filters=FILTERS,
            default_labels=tuple(label for label in LABELS if label not in NO_FINDINGS),
            features=("view", "sex"),
            notes=tuple(notes),
        ),
    )


def _table(path: AnyPath, part: str) -> tuple[pd.DataFrame, list[str]]:
    """The records of one table of the dataset, train.csv or valid.csv, and notes about it."""
    raw = read_text_table(path, what="CheXpert's table")
    require_columns(raw, ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS), path)
    values = {column: parse_numbers(raw, column, path) for column in LABELS}
    age, notes = parse_ages(raw, "Age", path)
    image = raw["Path"].str.strip().str.replace(r"^CheXpert-v1\.0[^/]*/", "", regex=True)
    parts = extract_groups(image, r"(?:^|/)(?P<patient>patient\d+)/study(?P<study>\d+)/[^/]+$")
    unmatched = parts["patient"].isna().to_numpy()
    if unmatched.any():
        at = int(np.argmax(unmatched))
        expected = ".../patient00001/study1/view1_frontal.jpg"
        raise row_error(path, at, f"'Path' is {quoted(raw['Path'].iloc[at])}, not like {expected}; {FIX}")
    side = raw["Frontal/Lateral"].str.strip()
    wrong = ~side.isin(("Frontal", "Lateral")).to_numpy()
    if wrong.any():
        at = int(np.argmax(wrong))
        cell = raw["Frontal/Lateral"].iloc[at]
        raise row_error(path, at, f"'Frontal/Lateral' is {quoted(cell)}, not Frontal or Lateral; {FIX}")
    columns = {
        "image": image,
        "source_row": np.arange(len(raw)),
        "patient": parts["patient"],
        "study": parts["patient"] + "/study" + parts["study"],
        "view": clean_codes(raw["AP/PA"]).mask(side == "Lateral", "lateral"),
        "sex": parse_sex(raw["Sex"]),
        "age": np.where(age > 0, age, np.nan),  # a few zeros among adults: unknown
        "split": pd.Series(part, index=raw.index),
        "study_number": parts["study"].to_numpy(np.int64),
    }
    notes += [f"{int((age == 0).sum())} ages of 0 in {path.name} count as unknown"] if (age == 0).any() else []
    return records_table(columns, values, rows=len(raw)), notes


def _in_batches(image: pd.Series, root: AnyPath, batches: list[str]) -> pd.Series:
    """Paths in the unpacked full release: a batch's folder has train patients directly in it, and val patients in valid/."""
    batch_of = {
        patient: batch for batch in batches for patient in subfolders(root / batch) if patient.startswith("patient")
    }
    parts = extract_groups(image, r"^(?P<level>train|valid)/(?P<patient>patient\d+)(?P<rest>/.*)$")
    batch = parts["patient"].map(batch_of)
    moved = (batch + "/" + parts["patient"] + parts["rest"]).where(parts["level"] == "train")
    valid = next((name for name in batches if (root / name / "valid").is_dir()), None)
    if valid is not None:
        moved = moved.where(parts["level"] != "valid", valid + "/" + image)
    return moved.fillna(image)  # a missing patient keeps the table's path, so that the ingest reports the file
