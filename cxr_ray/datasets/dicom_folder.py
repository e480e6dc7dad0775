"""A folder of DICOM files and a table of labels. Headers are read by an allow-list; who is who leaves as keyed hashes."""

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cxr_ray.datasets.base import Records, is_unremarkable, need_columns, records_table
from cxr_ray.datasets.cells import numbers, parts, read_text, text
from cxr_ray.datasets.folders import given_file, images
from cxr_ray.datasets.label_columns import LabelOptions, label_columns, one_kind, only_table
from cxr_ray.datasets.pseudonyms import hashed, key
from cxr_ray.errors import UserError
from cxr_ray.imaging import dicom
from cxr_ray.imaging.pixels import ImageError
from cxr_ray.labels import Filter
from cxr_ray.registry import SOURCES
from cxr_ray.storage.remote import Place

JOINS = {
    "SOPInstanceUID": ("sopinstanceuid", "sopuid", "instanceuid", "imageuid"),
    "file": ("file", "filename", "image", "imagepath", "path", "dicomid", "imageid"),
    "StudyInstanceUID": ("studyinstanceuid", "studyuid"),
    "AccessionNumber": ("accessionnumber", "accession"),
}
"""What joins a row of the table to DICOMs, the most exact first, and what its column is called (letters alone, lower case)."""
NOBODY = {"anonymous", "anonymized", "anonymised", "anon", "unknown", "none", "0"}
"""PatientIDs, in lower case, that name no one patient."""
VIEWS = {"LL": "lateral", "RL": "lateral", "LLO": "oblique", "RLO": "oblique", "LATERAL": "lateral", "LAT": "lateral"}
FRONTAL = Filter(name="frontal", query="view != 'lateral' and view != 'oblique'", about="no lateral and oblique views")


class DicomFolderOptions(LabelOptions):
    """Which table, how it is joined, what its columns mean, and which DICOMs are chest X-rays."""

    table: str | None = None
    """CSV, TSV or Parquet of labels, given from here or from the root; null: the only one in the root."""
    join: Literal["auto", "SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "file"] = "auto"
    """What joins it: a UID, the accession number, or the file's name (with or without extension) or path below the root. A
    study's row counts for all its images. auto: the first of these that has a column."""
    column: str | None = None
    """Column of the table that holds what joins; null: the one that is called so."""
    sex: str | None = None
    """Column of the table; it is not read from the DICOMs. null, here and below: the column of that name, if there is one."""
    age: str | None = None
    """Column of the age in years."""
    split: str | None = None
    """Column of the official part: train, val or test."""
    modalities: list[str] = Field(default=["CR", "DX", "DR", "RG"])
    """Modalities of an X-ray image; DICOMs that name none are kept."""
    body_parts: list[str] = Field(default=["CHEST", "THORAX", "LUNG", "RIB"])
    """BodyPartExamined of a chest X-ray begins with one of these; DICOMs that name none are kept."""
    names: Literal["hashed", "kept"] = "hashed"
    """hashed: an image is called by a keyed hash, since file names hold UIDs and people; kept: by its path below the root."""
    key: str | None = None
    """File of the secret that hashes are keyed with, made where it is not there; null: ~/.config/cxr_ray/hash.key."""


@SOURCES.register("dicom_folder", DicomFolderOptions)
def dicom_folder(root: Place, options: DicomFolderOptions) -> Records:
    """A folder of DICOMs at any depth, joined to a table of labels by SOPInstanceUID, StudyInstanceUID, accession or file name.

    Localisers, other modalities and body parts, several frames, objects without pixels, copies of one SOPInstanceUID and
    DICOMs that the table does not have are dropped by rule, and a note counts each. `patient` and `study` are keyed
    hashes; `image` is one, too, unless names are kept. `source_row` is the row of the table. Raises `UserError` for a
    missing table or column, a key that the table has twice, and where nothing is left."""
    dicom.need()
    path = given_file(options.table, root) if options.table else only_table(root, like="table of labels")
    raw = read_text(path, like="a table of labels")
    one_kind(options, raw, path)
    join, column = _join(raw, path, options)
    row_of = _rows_of(raw, column, join, path)
    secret = key(None if options.key is None else Path(options.key), away_from=root)

    held, dropped, listed = _kept(root, path, options, row_of, join)
    if not held:
        raise UserError(f"{root.absolute()}: none of {listed:,} DICOMs is left: {_told(dropped) or 'there are none'}")
    row_N = np.array([row for _, _, row in held])
    headers = [header for _, header, _ in held]
    files = pd.Series([file for file, _, _ in held], dtype="str")

    def ids(tag: str, kind: str) -> list[str | None]:
        found = [header.get(tag) for header in headers]
        return [
            None if i is None or (kind == "patient" and i.lower() in NOBODY) else hashed(kind, i, secret) for i in found
        ]

    names = [hashed("image", h.get("SOPInstanceUID", f), secret) + ".dcm" for f, h in zip(files, headers, strict=True)]
    view = pd.Series([header.get("ViewPosition", "").upper() or None for header in headers], dtype="str")
    columns: dict[str, Any] = {
        "image": names if options.names == "hashed" else files,
        "source_row": row_N,
        "patient": ids("PatientID", "patient"),
        "study": ids("StudyInstanceUID", "study"),
        "view": view.replace(VIEWS),
        **_about(raw, path, options, row_N),
    }
    task, labels = label_columns(raw, path, options, row_N)
    unused = len(raw) - len(np.unique(row_N))
    notes = [f"of {listed:,} DICOMs {len(held):,} are kept, dropped by rule: {_told(dropped)}"] if dropped else []
    notes += [f"{unused:,} of {len(raw):,} rows of the table have no DICOM here"] if unused else []
    return Records(
        table=records_table(columns, labels, rows=len(held)),
        labels=tuple(labels),
        task=task,
        groups={},
        filters=(FRONTAL,),
        default_labels=tuple(k for k in labels if task != "multilabel" or not is_unremarkable(k)) or tuple(labels),
        features=tuple(name for name in ("view", "sex") if name in columns),
        notes=tuple(notes),
        boxes=None,
        files=files,
    )


Held = tuple[str, dict[str, str], int]
"""A DICOM that counts: its path below the root, its header, its row of the table."""


def _kept(
    root: Place, table: Place, options: DicomFolderOptions, row_of: dict[str, int], join: str
) -> tuple[list[Held], Counter[str], int]:
    """The DICOMs that count, in the order of their paths; how many each rule dropped; and how many there are."""
    found, _ = images(root, root, None)
    held: list[Held] = []
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    listed = 0
    for file in found:
        if (root / file).resolve() == table.resolve():
            continue
        try:
            header = dicom.header(root / file)
        except ImageError as error:
            if error.reason != "not a DICOM":
                listed += 1
                dropped[error.reason] += 1
            continue
        listed += 1
        why = _drop_by(header, options)
        if not why and header.get("SOPInstanceUID", file) in seen:
            why = "copy of another"
        row = None if why else next((row_of[k] for k in _keys(file, header, join) if k in row_of), None)
        if why or row is None:
            dropped[why or "not in the table"] += 1
            continue
        seen.add(header.get("SOPInstanceUID", file))
        held.append((file, header, row))
    return held, dropped, listed


def _drop_by(header: dict[str, str], options: DicomFolderOptions) -> str:
    """The first rule that drops a DICOM, or nothing."""
    if "Rows" not in header or "Columns" not in header:
        return "no pixels"
    if "LOCALIZER" in header.get("ImageType", "").upper().split("\\"):
        return "localiser"
    if header.get("Modality", options.modalities[0] if options.modalities else "") not in options.modalities:
        return "other modality"
    part = header.get("BodyPartExamined", "").upper()
    if part and not part.startswith(tuple(p.upper() for p in options.body_parts)):
        return "other body part"
    if header.get("NumberOfFrames", "1") not in ("0", "1"):
        return "several frames"
    return ""


def _keys(file: str, header: dict[str, str], join: str) -> tuple[str, ...]:
    """What the table may call a DICOM."""
    if join != "file":
        return (header[join],) if join in header else ()
    path = PurePosixPath(file)
    return file, path.name, path.stem


def _join(raw: pd.DataFrame, path: Place, options: DicomFolderOptions) -> tuple[str, str]:
    """What joins, and its column."""
    if options.column is not None:
        need_columns(raw, [options.column], path)
    plain = {re.sub(r"[^a-z]", "", str(name).lower()): str(name) for name in reversed(raw.columns)}
    for join, names in JOINS.items():
        if options.join in ("auto", join):
            column = options.column or next((plain[name] for name in names if name in plain), None)
            if options.column and options.join == "auto" and re.sub(r"[^a-z]", "", options.column.lower()) not in names:
                continue
            if column is not None:
                return join, column
    named_so = "the column that joins" if options.join == "auto" else f"a column of {options.join}"
    raise UserError(
        f"{path} has no column that is called like {named_so}; say it with --join file --column NAME "
        f"(or SOPInstanceUID, StudyInstanceUID, AccessionNumber). Its columns: {', '.join(map(str, raw.columns))}"
    )


def _rows_of(raw: pd.DataFrame, column: str, join: str, path: Place) -> dict[str, int]:
    """Row of the table by its key. No key is named in an error: it may be a patient's."""
    keys = text(raw[column])
    if join == "file":
        keys = keys.str.replace("\\", "/").str.removeprefix("./")
    again = keys.duplicated() & keys.notna()
    if again.any():
        second = int(np.argmax(again.to_numpy()))
        first = int(np.argmax((keys == keys.iloc[second]).to_numpy()))
        raise UserError(f"{path}: rows {first} and {second} have the same {column}; keep one of them")
    return {name: row for row, name in enumerate(keys) if isinstance(name, str)}


def _about(raw: pd.DataFrame, path: Place, options: DicomFolderOptions, row_N: np.ndarray) -> dict[str, Any]:
    """Sex, age and official part of the images, as the table says."""
    asked = {name: getattr(options, name) for name in ("sex", "age", "split")}
    need_columns(raw, [column for column in asked.values() if column is not None], path)
    held = {name: column or name for name, column in asked.items() if column or name in raw.columns}
    out: dict[str, Any] = {}
    if "sex" in held:
        out["sex"] = text(raw[held["sex"]]).iloc[row_N].reset_index(drop=True)
    if "age" in held:
        out["age"] = numbers(raw, held["age"], path)[row_N]
    if "split" in held:
        out["split"] = parts(raw[held["split"]], path).iloc[row_N].reset_index(drop=True)
    return out


def _told(dropped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {why}" for why, count in sorted(dropped.items()))
