"""Synthetic chest X-rays as a dataset: findings of the patients, and the files. drawing.py draws, reader.py reads.

Not medically accurate: shapes, densities and frequencies are chosen so that the images look like frontal chest X-rays,
the labels are as imbalanced, uncertain and incomplete as CheXpert's, and a small network learns them in a minute.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr_ray.datasets.phantom.drawing import Box, canvas_of, draw_anatomy, place_finding, render
from cxr_ray.errors import UserError
from cxr_ray.storage.atomic import make_folder, write_atomic
from cxr_ray.storage.remote import to_local_path

FINDINGS = ("Cardiomegaly", "Edema", "Lung Opacity", "Pneumothorax", "Pleural Effusion", "Support Devices")
"""The labels, in the order of CheXpert's table."""
RECORD_COLUMNS = ("image", "patient", "study", "view", "sex", "age", *FINDINGS)
BOX_COLUMNS = ("image", "label", "x", "y", "w", "h")
PNG_STRATEGY = 2  # zlib's Huffman coding only: noise does not compress further, and it is twice as fast

# Log odds of each finding in a patient of average illness, and their slope with illness.
BASE = {
    "Cardiomegaly": -1.95, "Edema": -2.75, "Lung Opacity": -0.75, "Pneumothorax": -3.0, "Pleural Effusion": -1.35, "Support Devices": -1.1,
}  # fmt: skip
SLOPE = {
    "Cardiomegaly": 0.5, "Edema": 0.8, "Lung Opacity": 0.6, "Pneumothorax": 0.2, "Pleural Effusion": 0.8, "Support Devices": 0.8,
}  # fmt: skip
# Fraction of cells that the report leaves uncertain, and of absent findings that it states as absent (0); the rest are blank.
UNCERTAIN = {
    "Cardiomegaly": 0.04, "Edema": 0.06, "Lung Opacity": 0.03, "Pneumothorax": 0.015, "Pleural Effusion": 0.05, "Support Devices": 0.005,
}  # fmt: skip
DENIED = {
    "Cardiomegaly": 0.06, "Edema": 0.12, "Lung Opacity": 0.04, "Pneumothorax": 0.3, "Pleural Effusion": 0.2, "Support Devices": 0.04,
}  # fmt: skip

README = """Synthetic chest X-rays, made by cxr_ray's phantom. No person is in them.

images/pNNNNN_sN_vN.png   8-bit gray, square: patient, study of the patient, view of the study
phantom.csv               one row per image: image, patient, study, view (AP, PA), sex (Female, Male), age (years),
                          then one column per label: 1.0 positive, 0.0 negative, -1.0 uncertain, blank not mentioned
boxes.csv                 image, label, x, y, w, h: the extent of each finding with label 1.0, in pixels of the image;
                          x, y is the corner at the top left; a finding on both sides has two boxes

Labels: {labels}.
Written with: patients={patients}, size={size}, seed={seed}. Equal settings give equal bytes. Patient N is the same with any
number of patients, and has the same labels at any size. phantom.csv is written last: a folder without it is unfinished.
Read it with the source `phantom`: cxr-ray ingest phantom THIS_FOLDER OUT
"""


def write(
    out: str | Path,
    *,
    patients: int = 500,
    size: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write about three square images per patient, with sides of `size` pixels, to the new folder `out`, and return its path.

    The README.txt that it writes describes the layout. Deterministic in (patients, size, seed). `progress` is called with
    (patients done, patients). Raises `UserError` if `out` is not empty, or a number is out of range."""
    out = to_local_path(out, "phantom")
    if patients < 1:
        raise UserError(f"patients={patients}: a phantom needs at least 1")
    if not 32 <= size <= 2048:
        raise UserError(f"size={size}: give 32 to 2048 pixels")
    if seed < 0:
        raise UserError(f"seed={seed}: give 0 or more")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out.absolute()} is not empty; give a new folder, or remove it first")
    make_folder(out / "images")
    records: list[dict[str, Any]] = []
    boxes: list[tuple[str, *Box]] = []
    if progress:
        progress(0, patients)
    for number in range(patients):
        for record, pixels, found in draw_patient(number, size=size, rng=np.random.default_rng([seed, number])):
            Image.fromarray(pixels).save(out / record["image"], compress_level=1, compress_type=PNG_STRATEGY)
            records.append(record)
            boxes += [(record["image"], *box) for box in found]
        if progress:
            progress(number + 1, patients)
    (out / "README.txt").write_text(
        README.format(labels=", ".join(FINDINGS), patients=patients, size=size, seed=seed), encoding="utf-8"
    )
    _write_csv(out / "boxes.csv", BOX_COLUMNS, boxes)
    _write_csv(out / "phantom.csv", RECORD_COLUMNS, [[record[c] for c in RECORD_COLUMNS] for record in records])
    return out


def make_phantom(out: str | Path, *, patients: int = 500, size: int = 256, seed: int = 0) -> Path:
    """Write about three synthetic chest X-rays per patient, square with sides of `size` pixels, to the new folder `out`, and return its
    path: a small data set to try things on, which `read_dataset("phantom", out)` and `ingest` read.

    Not medically accurate; no person is in it. Equal numbers give equal bytes. Raises `UserError` as `write` does."""
    return write(out, patients=patients, size=size, seed=seed)


def draw_patient(
    number: int, *, size: int, rng: np.random.Generator
) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.uint8], list[Box]]]:
    """Yields for each image of a patient: its record (label cells as text), pixels [size, size], and boxes (label, x, y, w, h)."""
    canvas = canvas_of(size)
    female = bool(rng.random() < 0.44)
    age = int(np.clip(rng.normal(60, 17), 18, 90))
    illness = float(rng.normal())
    body = draw_anatomy(canvas, female, rng)
    patient = f"p{number:05d}"
    state: dict[str, float] = {}
    for study in range(1, 1 + min(int(rng.geometric(0.45)), 6)):
        portable = bool(rng.random() < (0.8 if illness > -0.3 else 0.4))
        state = next_findings(state, illness + 0.4 * portable, rng)
        labels = report_labels(state, rng)
        placements = {name: place_finding(canvas, body, name, rng) for name in state}
        for image in range(1, 2 + int(rng.random() < 0.35)):
            name = f"images/{patient}_s{study}_v{image}.png"
            pixels, boxes = render(canvas, body, state, placements, portable, rng)
            record: dict[str, Any] = {
                "image": name,
                "patient": patient,
                "study": f"{patient}_s{study}",
                "view": "AP" if portable else "PA",
            }
            record |= {"sex": "Female" if female else "Male", "age": age} | labels
            yield record, pixels, [box for box in boxes if labels[box[0]] == "1.0"]
        age = min(age + int(rng.integers(0, 2)), 90)


# Findings of a patient, and labels of the report


def next_findings(previous: Mapping[str, float], illness: float, rng: np.random.Generator) -> dict[str, float]:
    """Findings of a study and their severity (0 faint to 1). Two of three findings of the previous study persist."""
    state = {}
    for name in FINDINGS:
        odds = BASE[name] + SLOPE[name] * illness
        if name == "Edema" and "Cardiomegaly" in state:
            odds += 1.3
        if name == "Support Devices" and "Pneumothorax" in state:
            odds += 1.0
        persists, appears, severity = rng.random(3)
        if name in previous and persists < 0.66:
            state[name] = float(np.clip(previous[name] + rng.normal(0, 0.15), 0, 1))
        elif appears < 1 / (1 + np.exp(-odds)):
            state[name] = float(severity)
    return state


def report_labels(state: Mapping[str, float], rng: np.random.Generator) -> dict[str, str]:
    """Label cells of a study's table. Faint findings are uncertain more often than severe ones."""
    labels = {}
    for name in FINDINGS:
        uncertain, denied = rng.random(2)
        factor = 2.0 * (1.3 - state[name]) if name in state else 0.7
        if uncertain < UNCERTAIN[name] * factor:
            labels[name] = "-1.0"
        elif name in state:
            labels[name] = "1.0"
        else:
            labels[name] = "0.0" if denied < DENIED[name] else ""
    return labels


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[Any]) -> None:
    body = io.StringIO(newline="")
    writer = csv.writer(body, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomic(path, body.getvalue())
