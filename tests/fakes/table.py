"""A hospital's own table: labels Y and N by study, in the table of images or in a second table."""

from pathlib import Path

import pandas as pd

from tests.fakes.pictures import picture

# image, patient, study, view, age, split
IMAGES = [
    ("a.png", "007", "s1", "PA", "50", "training"),
    ("b.png", "007", "s1", "LAT", "50", "training"),
    ("c.png", "NA", "s2", "PA", "", "valid"),
    ("d.png", "9", "s3", "AP", "61", "test"),
]
LABELS = {"s1": ("Y", "N"), "s2": ("N", "U"), "s3": ("", "Y")}
COLUMNS = ["image", "patient", "study", "view", "age", "split"]
OPTIONS = {"folder": "pictures", "labels": ["Edema", "Rib/Fracture"], "values": {"Y": 1, "N": 0, "U": -1}}
"""Options that read `write(root)`."""


def write(root: Path, *, kind: str = "csv", apart: bool = False) -> Path:
    """images.csv (or .tsv, .parquet) and pictures/. `apart`: the labels are in labels.csv, one row per study."""
    images = pd.DataFrame(IMAGES, columns=COLUMNS)
    labels = pd.DataFrame(
        [(study, *values) for study, values in LABELS.items()], columns=["study", "Edema", "Rib/Fracture"]
    )
    for number, file in enumerate(images["image"]):
        picture(root / "pictures" / file, number)
    if apart:
        labels.iloc[::-1].to_csv(root / "labels.csv", index=False)
    else:
        images = images.merge(labels, on="study")
    path = root / f"images.{kind}"
    if kind == "parquet":
        images.assign(age=pd.to_numeric(images["age"])).to_parquet(path)
    else:
        images.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return root
