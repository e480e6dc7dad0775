"""A folder of DICOM files and a table of labels. Only headers on an allow-list are read; identifiers become keyed hashes."""

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import Records, records_table
from cxr_ray.datasets.cells import clean_text, parse_parts
from cxr_ray.datasets.classes import is_unremarkable
from cxr_ray.datasets.folders import find_images, resolve_file
from cxr_ray.datasets.label_columns import LabelOptions, label_columns, require_label_option
from cxr_ray.datasets.persons import parse_ages, parse_sex
from cxr_ray.datasets.pseudonyms import load_key, pseudonym
from cxr_ray.datasets.tables import find_table, read_text_table, require_columns
from cxr_ray.errors import UserError
from cxr_ray.imaging import dicom
from cxr_ray.imaging.pixels import ImageError
from cxr_ray.labels import Filter
from cxr_ray.registry import SOURCES
from cxr_ray.storage.remote import AnyPath

JOINS = {
    "SOPInstanceUID": ("sopinstanceuid", "sopuid", "instanceuid", "imageuid"),
    "file": ("file", "filename", "image", "imagepath", "path", "dicomid", "imageid"),
    "StudyInstanceUID": ("studyinstanceuid", "studyuid"),
    "AccessionNumber": ("accessionnumber", "accession"),
}
"""How a row of the table is joined to DICOMs, the most exact first, and names of its column (letters only, lower case)."""
ANONYMOUS = frozenset({"anonymous", "anonymized", "anonymised", "anon", "unknown", "none", "0"})
"""PatientIDs, in lower case, that do not identify a patient."""
VIEWS = {"LL": "lateral", "RL": "lateral", "LLO": "oblique", "RLO": "oblique", "LATERAL": "lateral", "LAT": "lateral"}
DICOM_EXTENSIONS = (".dcm", ".dicom", ".dic", ".ima")
"""A file that has one of these and is no DICOM is counted among the DICOMs."""
OTHER_EXTENSIONS = frozenset(
    [
        ".7z",
        ".bmp",
        ".csv",
        ".db",
        ".doc",
        ".docx",
        ".exe",
        ".gif",
        ".gz",
        ".htm",
        ".html",
        ".ini",
        ".inf",
        ".jpeg",
        ".jpg",
        ".json",
        ".log",
        ".md",
        ".nii",
        ".parquet",
        ".pdf",
        ".png",
        ".rar",
        ".rtf",
        ".sql",
        ".tar",
        ".tif",
        ".tiff",
        ".tsv",
        ".txt",
        ".webp",
        ".xls",
        ".xlsx",
        ".xml",
        ".yaml",
        ".yml",
        ".zip",
    ]
)
"""Extensions by which other files are counted. What follows the last point of any other name may be a part of a person's."""
FRONTAL = Filter(name="frontal", query="view != 'lateral' and view != 'oblique'", about="no lateral and oblique views")


class DicomFolderOptions(LabelOptions):
    """The table, how it is joined, its columns, and which DICOMs are chest X-rays."""

    table: str | None = None
    """CSV, TSV or Parquet file of labels; its path is from the current folder or the root. null: the only one in the root."""
    join: Literal["auto", "SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "file"] = "auto"
    """How it is joined: by a UID, the accession number, or the file's name (with or without extension) or path below the root.
    A study's row is for all its images. auto: the first of these that has a column."""
    column: str | None = None
    """Column on which the table is joined. null: the one with that name."""
    sex: str | None = None
    """Column of the sex in the table; the DICOMs' tag is not read. null, here and below: the column with the name of the option, if
    there is one."""
    age: str | None = None
    """Column of the age in years."""
    split: str | None = None
    """Column of the official part: train, val or test."""
    modalities: list[str] = Field(default=["CR", "DX", "DR", "RG"])
    """Modalities of X-ray images. DICOMs without a modality are kept."""
    body_parts: list[str] = Field(default=["CHEST", "THORAX", "LUNG", "RIB"])
    """A chest X-ray's BodyPartExamined begins with one of these. DICOMs without a body part are kept."""
    names: Literal["hashed", "kept"] = "hashed"
    """Names of images. hashed: a keyed hash, because file names contain UIDs and names of persons. kept: the path below the root."""
    key: str | None = None
    """File of the secret key of the hashes; it is created if it does not exist. null: ~/.config/cxr_ray/hash.key."""


@SOURCES.register("dicom_folder", DicomFolderOptions)
def dicom_folder(root: AnyPath, options: DicomFolderOptions) -> Records:
    """A folder of DICOMs at any depth, joined to a table of labels by SOPInstanceUID, StudyInstanceUID, accession or file name.

    Localisers, other modalities and body parts, several frames, objects without pixels, copies of a SOPInstanceUID and DICOMs
    that are not in the table are dropped; a note has the count of each rule, another that of the files that are no DICOMs. `patient` and `study` are keyed hashes, and so is
    `image` unless names are kept. `source_row` is the row of the table. Raises `UserError` for a missing table or column, a
    key that is in the table twice, and if no DICOM is left."""
    dicom.require_extra()
    path = resolve_file(options.table, root) if options.table else find_table(root, what="table of labels")
    raw = read_text_table(path, what="a table of labels", form=options.form)
    require_label_option(options, raw, path)
    join, column = _join(raw, path, options)
    row_of = _row_of_key(raw, column, join, path)
    secret = load_key(None if options.key is None else Path(options.key), outside=root)

    selected, dropped, others = _select(root, path, options, row_of, join)
    total = len(selected) + dropped.total()
    other_files = f"files that are no DICOMs: {_counts(others)}" if others else ""
    if not selected:
        raise UserError(
            f"{root.absolute()}: none of {total:,} DICOMs is left: {_counts(dropped) or 'there are none'}"
            f"{f' ({other_files})' if others else ''}; check the folder, and the options --join, --modalities and --body-parts"
        )
    row_N = np.array([row for _, _, row in selected])
    headers = [header for _, header, _ in selected]
    files = pd.Series([file for file, _, _ in selected], dtype="str")

    def pseudonyms(tag: str, kind: str, ignored: frozenset[str] = frozenset()) -> list[str | None]:
        found = [header.get(tag) for header in headers]
        return [None if i is None or i.lower() in ignored else pseudonym(kind, i, secret) for i in found]

    names = [
        pseudonym("image", h.get("SOPInstanceUID", f), secret) + ".dcm" for f, h in zip(files, headers, strict=True)
    ]
    view = pd.Series([header.get("ViewPosition", "").upper() or None for header in headers], dtype="str")
    table_columns, age_notes = _table_columns(raw, path, options, row_N)
    columns: dict[str, Any] = {
        "image": names if options.names == "hashed" else files,
        "source_row": row_N,
        "patient": pseudonyms("PatientID", "patient", ANONYMOUS),
        "study": pseudonyms("StudyInstanceUID", "study"),
        "view": view.replace(VIEWS),
        **table_columns,
    }
    task, labels = label_columns(raw, path, options, row_N)
    unused = len(raw) - len(np.unique(row_N))
    notes = [f"{len(selected):,} of {total:,} DICOMs are kept; dropped: {_counts(dropped)}"] if dropped else []
    notes += [f"{unused:,} of {len(raw):,} rows of the table have no DICOM"] if unused else []
    notes += age_notes
    notes += [other_files] if others else []
    return Records(
        table=records_table(columns, labels, rows=len(selected)),
        info=DatasetInfo(
            labels=tuple(labels),
            task=task,
            filters=(FRONTAL,),
            default_labels=tuple(k for k in labels if task != "multilabel" or not is_unremarkable(k)) or tuple(labels),
            features=tuple(name for name in ("view", "sex") if name in columns),
            notes=tuple(notes),
        ),
        files=files,
    )


Selected = tuple[str, dict[str, str], int]
"""A DICOM that is used: its path below the root, its header, its row of the table."""


def _select(
    root: AnyPath, table: AnyPath, options: DicomFolderOptions, row_of: dict[str, int], join: str
) -> tuple[list[Selected], Counter[str], Counter[str]]:
    """The DICOMs that are used, in the order of their paths; the number that each rule drops; and the numbers of other files by
    their kind. Every file but the table is in one of them."""
    found, others = find_images(root, root, None)
    selected: list[Selected] = []
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    for file in found:
        if (root / file).resolve() == table.resolve():
            continue
        try:
            header = dicom.read_header(root / file)
        except ImageError as error:
            suffix = PurePosixPath(file).suffix.lower()
            if error.reason in ("not a DICOM", "empty file") and suffix not in DICOM_EXTENSIONS:
                others[suffix if suffix in OTHER_EXTENSIONS else "of another kind"] += 1
            else:
                dropped[error.reason] += 1
            continue
        rule = _dropped_by(header, options)
        if not rule and header.get("SOPInstanceUID", file) in seen:
            rule = "copy of another"
        row = None if rule else next((row_of[k] for k in _keys(file, header, join) if k in row_of), None)
        if rule or row is None:
            dropped[rule or "not in the table"] += 1
            continue
        seen.add(header.get("SOPInstanceUID", file))
        selected.append((file, header, row))
    return selected, dropped, others


def _dropped_by(header: dict[str, str], options: DicomFolderOptions) -> str:
    """The first rule that drops a DICOM; an empty string if none does."""
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
    """The names that a DICOM may have in the table."""
    if join != "file":
        return (header[join],) if join in header else ()
    path = PurePosixPath(file)
    return file, path.name, path.stem


def _join(raw: pd.DataFrame, path: AnyPath, options: DicomFolderOptions) -> tuple[str, str]:
    """How the table is joined, and on which column."""
    if options.column is not None:
        require_columns(raw, [options.column], path)
    plain = {re.sub(r"[^a-z]", "", str(name).lower()): str(name) for name in reversed(raw.columns)}
    for join, names in JOINS.items():
        if options.join in ("auto", join):
            column = options.column or next((plain[name] for name in names if name in plain), None)
            if options.column and options.join == "auto" and re.sub(r"[^a-z]", "", options.column.lower()) not in names:
                continue
            if column is not None:
                return join, column
    kind = ", ".join(JOINS) if options.join == "auto" else options.join
    raise UserError(
        f"{path} has no column with a usual name of {kind}; name it with --join file --column NAME "
        f"(or SOPInstanceUID, StudyInstanceUID, AccessionNumber). Its columns: {', '.join(map(str, raw.columns))}"
    )


def _row_of_key(raw: pd.DataFrame, column: str, join: str, path: AnyPath) -> dict[str, int]:
    """Row of the table by its key. Errors contain no key, because it may identify a patient."""
    keys = clean_text(raw[column])
    if join == "file":
        keys = keys.str.replace("\\", "/").str.removeprefix("./")
    repeated = keys.duplicated() & keys.notna()
    if repeated.any():
        second = int(np.argmax(repeated.to_numpy()))
        first = int(np.argmax((keys == keys.iloc[second]).to_numpy()))
        raise UserError(
            f"{path}: rows {first} and {second} (counted from 0) have the same {column}; delete one of them"
        )
    return {name: row for row, name in enumerate(keys) if isinstance(name, str)}


def _table_columns(
    raw: pd.DataFrame, path: AnyPath, options: DicomFolderOptions, row_N: np.ndarray
) -> tuple[dict[str, Any], list[str]]:
    """Sex, age and official part of the images, from the table, and a note about unknown ages."""
    given = {name: getattr(options, name) for name in ("sex", "age", "split")}
    require_columns(raw, [column for column in given.values() if column is not None], path)
    columns = {name: column or name for name, column in given.items() if column or name in raw.columns}
    out: dict[str, Any] = {}
    notes: list[str] = []
    if "sex" in columns:
        out["sex"] = parse_sex(raw[columns["sex"]]).iloc[row_N].reset_index(drop=True)
    if "age" in columns:
        ages, notes = parse_ages(raw, columns["age"], path)
        out["age"] = ages[row_N]
    if "split" in columns:
        out["split"] = parse_parts(raw[columns["split"]], path).iloc[row_N].reset_index(drop=True)
    return out, notes


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {rule}" for rule, count in sorted(dropped.items()))
