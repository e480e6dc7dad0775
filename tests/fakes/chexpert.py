"""A fake of CheXpert-small: train.csv, valid.csv and their JPEGs, with all irregularities of the published table."""

from pathlib import Path

import pandas as pd

from tests.fakes.pictures import picture

LABELS = [
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
]  # fmt: skip
# patient, study, file, sex, age, side, view, findings
TRAIN = [
    (
        1,
        1,
        "view1_frontal",
        "Female",
        68,
        "Frontal",
        "AP",
        {"No Finding": 1.0, "Support Devices": 1.0, "Pneumothorax": 0.0},
    ),
    (2, 2, "view1_frontal", "Female", 87, "Frontal", "AP", {"Cardiomegaly": -1.0, "Lung Opacity": 1.0, "Edema": -1.0}),
    (2, 1, "view1_frontal", "Female", 83, "Frontal", "PA", {"Lung Opacity": 1.0, "Fracture": 1.0}),
    (2, 1, "view2_lateral", "Female", 83, "Lateral", "", {"Lung Opacity": 1.0, "Fracture": 1.0}),
    (3, 1, "view1_frontal", "Male", 0, "Frontal", "LL", {"Edema": 1.0}),
    (4, 5, "view1_frontal", "Unknown", 90, "Frontal", "AP", {"Pleural Effusion": 1.0}),
    (4, 4, "view1_frontal", "Unknown", 90, "Frontal", "AP", {"Pleural Effusion": 1.0, "Atelectasis": -1.0}),
]
VALID = [(64541, 1, "view1_frontal", "Male", 73, "Frontal", "AP", dict.fromkeys(LABELS, 0.0) | {"Cardiomegaly": 1.0})]


def write(root: Path, *, name: str = "CheXpert-v1.0-small", valid: bool = True, images: bool = True) -> Path:
    """`name` is the prefix of the paths in the tables, independent of `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", TRAIN), ("valid", VALID)):
        if part == "valid" and not valid:
            continue
        table = []
        for number, (patient, study, file, sex, age, side, view, findings) in enumerate(rows):
            path = f"{part}/patient{patient:05d}/study{study}/{file}.jpg"
            head = {"Path": f"{name}/{path}", "Sex": sex, "Age": age, "Frontal/Lateral": side, "AP/PA": view}
            table.append(head | {label: findings.get(label, "") for label in LABELS})
            if images:
                picture(root / path, number, size=(39, 32))
        pd.DataFrame(table).to_csv(root / f"{part}.csv", index=False)
    return root
