"""A folder of DICOMs like a hospital's export: a table of labels, chest X-rays, and other files among them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.fakes.dicom import write as dicom

PATIENTS = 6
SYNTAXES = ("explicit", "implicit", "rle", "j2k", "lossless", "jpegls")
RULES: dict[str, dict[str, Any]] = {
    "localiser": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "other body part": {"BodyPartExamined": "HAND"},
    "other modality": {"Modality": "CT"},
    "several frames": {"NumberOfFrames": 2},
}


def uid(patient: int, study: int, image: int | None = None) -> str:
    return f"1.2.826.0.1.99.{patient}.{study}" + ("" if image is None else f".{image}")


def secrets() -> list[str]:
    """Identifiers of patients, studies and files of `write`, in addition to `fakes.dicom.SECRETS`."""
    out = [f"MRN{p:05d}" for p in range(PATIENTS)] + [f"ACC{p:03d}-{s}" for p in range(PATIENTS) for s in range(2)]
    return out + [f"Doe_{p}" for p in range(PATIENTS)] + ["1.2.826.0.1.99"]


def write(root: Path, *, join: str = "SOPInstanceUID") -> Path:
    """Six patients with two studies of one and two images, in folders named after persons, and labels.csv with the column `join`."""
    rows: list[dict[str, object]] = []
    for p in range(PATIENTS):
        for s in range(2):
            tags: dict[str, Any] = {
                "PatientID": f"MRN{p:05d}", "StudyInstanceUID": uid(p, s), "AccessionNumber": f"ACC{p:03d}-{s}",
                "PatientName": f"Doe_{p}^Jane",
            }  # fmt: skip
            for i in range(1 + s):
                rng = np.random.default_rng([p, s, i])
                pixels = rng.integers(0, 4096, (36, 48)).astype(np.uint16)
                name = f"Doe_{p}/study {s}/{uid(p, s, i)}" + (".dcm" if i else "")  # some have no extension
                view = "LL" if i else "PA"
                syntax = SYNTAXES[p % len(SYNTAXES)]
                dicom(root / name, pixels, syntax, bits=12, SOPInstanceUID=uid(p, s, i), ViewPosition=view, **tags)
                row: dict[str, object] = {
                    "SOPInstanceUID": uid(p, s, i),
                    "file": name,
                    "StudyInstanceUID": uid(p, s),
                    "AccessionNumber": tags["AccessionNumber"],
                }
                rows.append(row | {"sex": "FM"[p % 2], "age": 30 + p, "Edema": int(p % 2 == 0), "Mass": "" if s else 0, "kind": "ill" if p % 2 else "normal"})  # fmt: skip
    for at, (rule, broken) in enumerate(RULES.items()):
        shape = (72, 48) if "NumberOfFrames" in broken else (36, 48)
        tags = broken | ({"Rows": 36} if "NumberOfFrames" in broken else {})
        dicom(root / "Doe_0" / f"{rule}.dcm", np.zeros(shape, np.uint16), SOPInstanceUID=uid(0, 9, at), **tags)
    dicom(root / "Doe_1" / "report.dcm", None, SOPInstanceUID=uid(1, 9, 0), Modality="SR")
    (root / "Doe_1" / "z copy.dcm").write_bytes((root / "Doe_1" / "study 1" / f"{uid(1, 1, 1)}.dcm").read_bytes())
    dicom(root / "Doe_2" / "unlisted.dcm", np.zeros((36, 48), np.uint16), SOPInstanceUID=uid(2, 9, 0), StudyInstanceUID=uid(2, 9), AccessionNumber="ACC002-9")  # fmt: skip
    (root / "DICOMDIR.txt").write_text("not a DICOM")
    table = pd.DataFrame(rows)
    keep = [join, "sex", "age", "Edema", "Mass", "kind"]
    table[keep].drop_duplicates(join).to_csv(root / "labels.csv", index=False)
    return root
