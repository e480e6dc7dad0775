"""A fake of VinDr-CXR: annotations/ with one row per reader in train and one consensus row in test, and the images."""

from pathlib import Path

import pandas as pd

from tests.fakes.pictures import picture

NAMES = [
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding",
]  # fmt: skip
# image: findings of each reader
TRAIN = {
    "000434271f63a053c4128a0ba6352c7f": {"R6": ["No finding"], "R2": ["No finding"], "R3": ["No finding"]},
    "0005e8e3701dfb1dd93d53e2ff537b6e": {"R10": ["Nodule/Mass", "Pneumonia"], "R8": ["Nodule/Mass"], "R9": ["Other diseases"]},
    "0007d316f756b3fa0baea2ff514ce945": {"R5": ["Edema"], "R8": ["No finding"], "R10": ["No finding"]},
}  # fmt: skip
KAGGLE = {  # a reader may draw several boxes of a finding
    "50a418190bc3fb1ef1633bf9678929b3": {"R11": ["No finding"], "R15": ["No finding"], "R7": ["No finding"]},
    "21a10246a5ec7af151081d0cd6d65dc9": {"R7": ["Nodule/Mass"] * 3, "R8": ["Nodule/Mass", "ILD"], "R9": ["ILD", "Cardiomegaly"]},
    "9a5094b2563a1ef3ff50dc5c7ff71345": {"R9": ["Cardiomegaly"], "R10": ["No finding"], "R8": ["No finding"]},
}  # fmt: skip
TEST = {
    "002a34c58c5b758217ed1f584ccbcfe9": ["Cardiomegaly", "Other diseases"],
    "004f33259ee4aef671c2b95d54e4be68": ["No finding"],
}
# image, reader, finding, x_min, y_min, x_max, y_max: in pixels of the DICOM
DICOM_SIZE = (480, 400)  # width, height
TRAIN_BOXES = [
    ("000434271f63a053c4128a0ba6352c7f", "R6", "No finding", "", "", "", ""),
    ("0005e8e3701dfb1dd93d53e2ff537b6e", "R10", "Nodule/Mass", 100.0, 200.0, 160.0, 240.0),
    ("0005e8e3701dfb1dd93d53e2ff537b6e", "R8", "Nodule/Mass", 110.0, 200.0, 470.0, 390.0),
    ("0007d316f756b3fa0baea2ff514ce945", "R5", "Edema", 1.0, 2.0, 3.0, 4.0),
]
TEST_BOXES = [("002a34c58c5b758217ed1f584ccbcfe9", "Cardiomegaly", 40.0, 80.0, 240.0, 380.0)]


def write_kaggle(root: Path) -> Path:
    """Kaggle's layout of the train part: train.csv with one row per box, or per reader without a finding, and DICOMs in train/."""
    box = {"x_min": 10.0, "y_min": 20.0, "x_max": 60.0, "y_max": 50.0}
    rows = [
        {"image_id": image, "class_name": finding, "class_id": 14 if finding == "No finding" else 3, "rad_id": reader}
        | ({} if finding == "No finding" else box)
        for image, readers in KAGGLE.items()
        for reader, findings in readers.items()
        for finding in findings
    ]
    (root / "train").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(root / "train.csv", index=False)
    for image in KAGGLE:
        (root / "train" / f"{image}.dicom").write_bytes(bytes(128) + b"DICM")
    return root


def write(root: Path, *, kind: str = "png", scale: int = 1, meta: bool = False) -> Path:
    """`kind`: png, jpg or dicom (files with the magic bytes only). Converted images are smaller by `scale`. `meta`: with the tables
    of the DICOMs' sizes."""
    annotations = root / "annotations"
    annotations.mkdir(parents=True, exist_ok=True)
    train = [
        {"image_id": image, "rad_id": reader} | {name: int(name in findings) for name in NAMES}
        for image, readers in TRAIN.items()
        for reader, findings in readers.items()
    ]
    pd.DataFrame(train).to_csv(annotations / "image_labels_train.csv", index=False)
    test = [{"image_id": image} | {name: int(name in findings) for name in NAMES} for image, findings in TEST.items()]
    pd.DataFrame(test).rename(columns={"Other diseases": "Other disease"}).to_csv(
        annotations / "image_labels_test.csv", index=False
    )
    sides = ["x_min", "y_min", "x_max", "y_max"]
    pd.DataFrame(TRAIN_BOXES, columns=["image_id", "rad_id", "class_name", *sides]).to_csv(
        annotations / "annotations_train.csv", index=False
    )
    pd.DataFrame(TEST_BOXES, columns=["image_id", "class_name", *sides]).to_csv(
        annotations / "annotations_test.csv", index=False
    )
    for part, images in (("train", TRAIN), ("test", TEST)):
        for number, image in enumerate(images):
            if kind == "dicom":
                (root / part).mkdir(exist_ok=True)
                (root / part / f"{image}.dicom").write_bytes(bytes(128) + b"DICM")
            else:
                picture(root / part / f"{image}.{kind}", number, size=(DICOM_SIZE[0] // scale, DICOM_SIZE[1] // scale))
        if meta:
            sizes = pd.DataFrame({"image_id": list(images), "dim0": DICOM_SIZE[1], "dim1": DICOM_SIZE[0]})
            sizes.to_csv(annotations / f"{part}_meta.csv", index=False)
    return root
