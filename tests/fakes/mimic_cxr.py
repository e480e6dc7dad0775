"""A fake of MIMIC-CXR-JPG: files/pNN/pPATIENT/sSTUDY/DICOM.jpg and the gzipped tables of images, split and study labels."""

from pathlib import Path

import pandas as pd

from tests.fakes.pictures import picture

LABELS = [
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
]  # fmt: skip
# dicom, patient, study, view, split
IMAGES = [
    ("02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", 10000032, 50414267, "PA", "train"),
    ("174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962", 10000032, 50414267, "LATERAL", "train"),
    ("2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab", 10000032, 53189527, "AP", "train"),
    ("68b5c4b1-227d0485-9cc38c3f-7b84ab51-4b472714", 11000033, 50771383, "", "validate"),
    ("096052b7-d256dc40-453a102b-fa7d01c6-1b22c6b4", 19999987, 55368167, "AP", "test"),
]
STUDIES: list[tuple[int, int, dict[str, float], dict[str, float]]] = [  # patient, study, chexpert, negbio
    (10000032, 50414267, {"No Finding": 1.0}, {"No Finding": 1.0}),
    (10000032, 53189527, {"Edema": 1.0, "Pneumonia": -1.0}, {"Edema": 1.0, "Pneumonia": 0.0}),
    (11000033, 50771383, {"Cardiomegaly": 1.0, "Fracture": 0.0}, {"Cardiomegaly": 1.0}),
]


def write(root: Path, *, gzip: bool = True) -> Path:
    """The study of the last image has no labels, as some studies of the dataset."""
    root.mkdir(parents=True, exist_ok=True)
    end = ".csv.gz" if gzip else ".csv"
    for number, (dicom, patient, study, *_) in enumerate(IMAGES):
        picture(root / f"files/p{str(patient)[:2]}/p{patient}/s{study}/{dicom}.jpg", number)
    names = ["dicom_id", "subject_id", "study_id", "ViewPosition", "split"]
    images = pd.DataFrame(IMAGES, columns=names)
    meta = images.drop(columns="split").assign(Rows=20, Columns=24, StudyDate=21800506, StudyTime=213014.531)
    meta.to_csv(root / f"mimic-cxr-2.0.0-metadata{end}", index=False)
    split = images.drop(columns="ViewPosition")[["dicom_id", "study_id", "subject_id", "split"]]
    split.iloc[::-1].to_csv(root / f"mimic-cxr-2.0.0-split{end}", index=False)  # in another order than the metadata
    for at, labeler in enumerate(("chexpert", "negbio")):
        rows = [{"subject_id": p, "study_id": s} | {k: of[at].get(k, "") for k in LABELS} for p, s, *of in STUDIES]
        pd.DataFrame(rows).to_csv(root / f"mimic-cxr-2.0.0-{labeler}{end}", index=False)
    return root
