"""CheXpert (Irvin et al. 2019, arXiv:1901.07031): its tables, the codes in them, and the cleaning it needs."""

import re

import numpy as np
import pandas as pd

from cxr_ray.datasets.base import Records, need_columns, read_csv, records_table
from cxr_ray.datasets.cells import matched, numbers
from cxr_ray.datasets.folders import file_like, subfolders
from cxr_ray.errors import UserError
from cxr_ray.labels import Filter
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import Place

LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
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
def chexpert(root: Place, options: Options) -> Records:
    """CheXpert and CheXpert-small: the folder that holds train.csv (and valid.csv, whose rows are the official val list).

    `view` is AP, PA, LL or RL, `lateral` for every lateral row; `study` is patientNNNNN/studyN, and its number stands in
    the further column `study_number`; an age of 0 is unknown. The full release's `CheXpert-v1.0 batch N (...)` folders
    are found too, with the tables beside them or in one of them. Raises `UserError` for a missing table or column."""
    batches = [name for name in subfolders(root) if BATCH.fullmatch(name)]
    places = [root, *(root / name for name in batches)]
    frames = []
    for name, part in TABLES.items():
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is not None:
            frames.append(_table(path, part))
        elif name == "train.csv":
            file_like(root, name)  # says where it may lie
    table = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    if batches and not (root / "train").is_dir():
        table["image"] = _in_batches(table["image"], root, batches)
    return Records(
        table=table,
        labels=LABELS,
        task="multilabel",
        groups={"competition5": COMPETITION5},
        filters=FILTERS,
        default_labels=tuple(label for label in LABELS if label not in ("No Finding", "Support Devices")),
        features=("view", "sex"),
        notes=(),
        boxes=None,
    )


def _table(path: Place, part: str) -> pd.DataFrame:
    """The records of one of the dataset's tables."""
    raw = read_csv(path, like="CheXpert's table")
    need_columns(raw, ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS), path)
    values = {column: numbers(raw, column, path) for column in ("Age", *LABELS)}
    image = raw["Path"].astype("str").str.replace(r"^CheXpert-v1\.0[^/]*/", "", regex=True)
    parts = matched(image, r"(?:^|/)(?P<patient>patient\d+)/study(?P<study>\d+)/[^/]+$")
    odd = parts["patient"].isna().to_numpy()
    if odd.any():
        at = int(np.argmax(odd))
        raise UserError(
            f"{path}: row {at} has the path {raw['Path'].iloc[at]!r}, not .../patient00001/study1/view1_frontal.jpg"
        )
    side = raw["Frontal/Lateral"].astype("str")
    strange = ~side.isin(("Frontal", "Lateral")).to_numpy()
    if strange.any():
        at = int(np.argmax(strange))
        raise UserError(
            f"{path}: 'Frontal/Lateral' is {raw['Frontal/Lateral'].iloc[at]!r} at row {at}, not Frontal or Lateral"
        )
    age = values.pop("Age")
    columns = {
        "image": image,
        "source_row": np.arange(len(raw)),
        "patient": parts["patient"],
        "study": parts["patient"] + "/study" + parts["study"],
        "view": raw["AP/PA"].astype("str").mask(side == "Lateral", "lateral"),
        "sex": raw["Sex"],
        "age": np.where(age > 0, age, np.nan),  # a handful of zeros among adults: not known
        "split": pd.Series(part, index=raw.index),
        "study_number": parts["study"].to_numpy(np.int64),
    }
    return records_table(columns, values, rows=len(raw))


def _in_batches(image: pd.Series, root: Place, batches: list[str]) -> pd.Series:
    """Paths of the full release as it unpacks: train patients lie right in a batch's folder, valid/ keeps its level."""
    home = {
        patient: batch for batch in batches for patient in subfolders(root / batch) if patient.startswith("patient")
    }
    parts = matched(image, r"^(?P<level>train|valid)/(?P<patient>patient\d+)(?P<rest>/.*)$")
    batch = parts["patient"].map(home)
    moved = (batch + "/" + parts["patient"] + parts["rest"]).where(parts["level"] == "train")
    valid = next((name for name in batches if (root / name / "valid").is_dir()), None)
    if valid is not None:
        moved = moved.where(parts["level"] != "valid", valid + "/" + image)
    return moved.fillna(image)  # a patient that is nowhere keeps the table's path, and ingest says that it is missing
