"""A fake of PadChest: one table with lists of findings as text, and 16-bit PNGs in numbered folders."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

# image, folder, study date, study, patient, birth, sex, projection, method, labels
ROWS = [
    ("20536686640136348236148679891455886468_k6ga29.png", 0, 20140915, "S1", "P1", 1930.0, "F", "L", "Physician", "['pulmonary fibrosis', 'chronic changes', ' kyphosis', '']"),
    ("20536686640136348236148679891455886468_k6ga30.png", 0, 20140915, "S1", "P1", 1930.0, "F", "PA", "Physician", "['pulmonary fibrosis', 'chronic changes', ' kyphosis', '']"),
    ("135803415504923515076821959678074435083_fzis7b.png", 14, 20150914, "S2", "P2", 1965.0, "M", "PA", "RNN_model", "['normal']"),
    ("113855343774216031107737439268243531979_3k951l.png", 14, 20131020, "S3", "P3", "", "M", "AP_horizontal", "RNN_model", "['unchanged', ' ']"),
    ("216840111366964012283393834152009033102258826_00-059-087.png", 36, 20090331, "S4", "P4", 1950.0, "F", "PA", "RNN_model", ""),
    ("216840111366964012283393834152009033102258827_00-059-088.png", 36, 20090331, "S5", "P4", 1950.0, "F", "COSTAL", "RNN_model", "['exclude', 'rib fracture']"),
]  # fmt: skip
COLUMNS = [
    "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM", "Projection",
    "MethodLabel", "Labels",
]  # fmt: skip


def write(root: Path, *, flat: bool = False, gzip: bool = False) -> Path:
    """`flat`: all images in one folder next to the table, as in the resized copies."""
    root.mkdir(parents=True, exist_ok=True)
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv" + (".gz" if gzip else "")
    table = pd.DataFrame(ROWS, columns=COLUMNS)
    table.insert(8, "Report", "sin hallazg patolog . ")
    table.to_csv(root / name, index=True)  # the published table starts with a column without a name
    for number, row in enumerate(ROWS):
        path = root / ("images" if flat else str(row[1])) / row[0]
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 4096, (20, 24)).astype(np.uint16)
        Image.fromarray(pixels).save(path)
    return root
