"""A fake of the covid-chestxray-dataset of ieee8023: metadata.csv of an early or a late release, images/ and volumes/."""

from pathlib import Path

import pandas as pd

from tests.fakes.pictures import picture

# patient, sex, age, finding, view, modality, folder, file, url
ROWS = [
    ("2", "M", "65", "Pneumonia/Viral/COVID-19", "PA", "X-ray", "images", "a-day0.jpeg", "https://www.nejm.org/doi/1"),
    ("2", "M", "65", "Pneumonia/Viral/COVID-19", "AP Supine", "X-ray", "images", "a-day3.png", "https://www.nejm.org/doi/1"),
    ("4", "F", "", "Pneumonia/Viral/SARS", "L", "X-ray", "images", "b.jpg", "https://pubs.rsna.org/doi/2"),
    ("5", "", "40", "No Finding", "AP", "X-ray", "images", "c.png", "radiopaedia.org/cases/3"),
    ("6", "F", "31", "todo", "PA", "X-ray", "images", "d.png", ""),
    ("7", "F", "72", "Pneumonia/Viral/COVID-19", "Axial", "CT", "images", "e.png", "https://radiopaedia.org/cases/4"),
    ("8", "M", "50", "Pneumonia", "Coronal", "CT", "volumes", "f.nii.gz", "https://zenodo.org/5"),
]  # fmt: skip


def write(root: Path, *, early: bool = False) -> Path:
    """`early`: as the first releases, with other column names, flat findings, and without modality and folder."""
    root.mkdir(parents=True, exist_ok=True)
    table = []
    for number, (patient, sex, age, finding, view, modality, folder, file, url) in enumerate(ROWS):
        row = {"patientid": patient, "offset": "0", "sex": sex, "age": age, "finding": finding, "view": view}
        if early:
            row |= {"finding": "COVID-19, ARDS" if "COVID" in finding else finding.rpartition("/")[2]}
            row = {"Patientid" if key == "patientid" else key: value for key, value in row.items()}
            row |= {"filename": file, "doi": "", " url": url}
            if folder == "volumes":
                continue
        else:
            row |= {
                "modality": modality,
                "folder": folder,
                "filename": file,
                "url": url,
                "clinical_notes": "fever, cough",
            }
        table.append(row)
        if folder == "images":
            picture(root / folder / file, number)
        else:
            (root / folder).mkdir(exist_ok=True)
            (root / folder / file).write_bytes(b"\x1f\x8b volume")
    pd.DataFrame(table).to_csv(root / "metadata.csv", index=False)
    return root
