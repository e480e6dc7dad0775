"""Class folders, optionally inside split folders. Reads names, never pixels."""

import re
from collections import Counter
from pathlib import PurePosixPath

import pandas as pd
from pydantic import field_validator

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import PART_NAMES, Records, records_table
from cxr_ray.datasets.classes import MOST_CLASSES, class_columns, other_class
from cxr_ray.datasets.folders import EXTENSIONS, find_images, note_of_others, resolve_file, subfolders
from cxr_ray.datasets.tables import read_text_table, require_columns
from cxr_ray.errors import UserError, listed, quoted, shortened
from cxr_ray.labels import PARTS
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.names import common_spelling
from cxr_ray.storage.remote import AnyPath


class ImageFolderOptions(Options):
    """Options of class folders."""

    patient_regex: str | None = None
    """Regular expression searched in each file name. Its first group is the patient."""
    patients: str | None = None
    """CSV or Parquet file with the columns `file, patient` (file: path below the root); its path is from the current folder or
    the root. null: `patients.csv` in the root, if it exists."""
    positive: str | None = None
    """Of two classes, the one whose label is 1. null: the one not called normal, no finding, negative or healthy."""

    @field_validator("patient_regex")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        if not groups:
            raise ValueError("the patient must be in a group, such as ^(patient[0-9]+)_")
        return value


@SOURCES.register("image_folder", ImageFolderOptions)
def image_folder(root: AnyPath, options: ImageFolderOptions) -> Records:
    """Folders named after classes (CLASS/image.png), or after splits and classes (Train/CLASS/image.png).

    Raises `UserError` if there are no class folders, one of them is empty, or the splits have different classes."""
    splits = _splits(root)
    rows: list[tuple[str, str, str | None]] = []  # image, class, split
    others: Counter[str] = Counter()
    classes: list[str] = []
    for part, folder in splits:
        folder_of = {common_spelling(name): name for name in subfolders(folder)}
        names = sorted(folder_of)
        if len(names) < 2:
            raise UserError(
                f"{folder.absolute()} has {'one class folder' if names else 'no class folders'}"
                f"{f' ({names[0]})' if names else ''}; an image folder needs at least two: {folder.name}/CLASS/image.png"
            )
        if classes and names != classes:
            first, different = splits[0][1].name, sorted(set(names) ^ set(classes))
            raise UserError(
                f"the classes of {folder.name} ({listed(names)}) differ from those of {first} ({listed(classes)}); "
                f"add, rename or remove {listed(different)}"
            )
        if len(names) > MOST_CLASSES:
            raise UserError(
                f"{folder.absolute()} has {len(names):,} folders ({listed(names)}), too many for classes, at most {MOST_CLASSES}; "
                "give the folder with one folder for each class"
            )
        classes = names
        for name in names:
            _refuse_masks(folder / folder_of[name])
            found, other_files = find_images(folder / folder_of[name], root)
            if not found:
                raise UserError(
                    f"the class folder {(folder / name).absolute()} has no image ({' '.join(EXTENSIONS)}); fill it or remove it"
                )
            others += other_files
            rows += [(path, name, part) for path in found]
    rows.sort()
    paths = [row[0] for row in rows]
    task, columns = class_columns([row[1] for row in rows], classes, positive=options.positive)
    patient, notes = _patients(root, paths, options)
    notes += note_of_others(others)
    table = records_table(
        {"image": paths, "patient": patient, "split": [row[2] for row in rows]}, columns, rows=len(rows)
    )
    labels = tuple(columns)
    return Records(
        table=table,
        info=DatasetInfo(
            labels=labels,
            task=task,
            other_class=other_class(classes, labels),
            default_labels=labels,
            notes=tuple(notes),
        ),
    )


def _splits(root: AnyPath) -> list[tuple[str | None, AnyPath]]:
    """(part, folder) of each split folder, train first; only (None, root) if the classes are directly in the root."""
    names = subfolders(root)
    parts = {name: PART_NAMES[name.casefold()] for name in names if name.casefold() in PART_NAMES}
    if not parts:
        return [(None, root)]
    for name in names:
        if name not in parts and find_images(root / name, root)[0]:
            raise UserError(
                f"{root.absolute()} mixes split folders ({listed(parts)}) with {shortened(name)}, which has images; move it elsewhere"
            )
    repeated = [part for part, count in Counter(parts.values()).items() if count > 1]
    if repeated:
        same = [name for name, part in parts.items() if part == repeated[0]]
        raise UserError(f"{root.absolute()}: {' and '.join(same)} mean the same part, {repeated[0]}; keep one of them")
    return sorted(((part, root / name) for name, part in parts.items()), key=lambda pair: PARTS.index(str(pair[0])))


def _refuse_masks(folder: AnyPath) -> None:
    if "masks" in [name.casefold() for name in subfolders(folder)]:
        raise UserError(
            f"{folder.absolute()} has a folder of masks, which would be read as X-rays; use the source covid_radiography if it "
            "is that dataset, or move the masks elsewhere"
        )


def _patients(root: AnyPath, paths: list[str], options: ImageFolderOptions) -> tuple[list[str | None], list[str]]:
    """The patient of each image, None if unknown, and notes."""
    if options.patient_regex is not None and options.patients is not None:
        raise UserError("give --patient-regex or --patients, not both")
    patient: list[str | None]
    if options.patient_regex is not None:
        pattern = re.compile(options.patient_regex)
        matches = [pattern.search(PurePosixPath(path).name) for path in paths]
        patient = [match.group(1) if match else None for match in matches]
        origin = f"--patient-regex {quoted(options.patient_regex)}"
    elif options.patients is not None or (root / "patients.csv").is_file():
        path = resolve_file(options.patients, root) if options.patients else root / "patients.csv"
        patient_of = _read_patients(path)
        patient = [patient_of.get(common_spelling(name)) for name in paths]
        origin = str(path)
    else:
        return [None] * len(paths), []
    patient = [p or None for p in patient]
    missing = sum(p is None for p in patient)
    if missing == len(paths):
        raise UserError(
            f"{origin} gives no patient for any of the {len(paths)} images; the first image is {quoted(paths[0])}"
        )
    return patient, [
        f"the patient of {missing} of {len(paths)} images is unknown: {origin} does not name it"
    ] if missing else []


def _read_patients(path: AnyPath) -> dict[str, str]:
    """File (posix, below the root) to patient."""
    if not path.is_file():
        raise UserError(
            f"no table of patients at {path.absolute()}; --patients is a CSV or Parquet file with the columns file and patient"
        )
    table = read_text_table(path, what="a table of patients")
    require_columns(table, ("file", "patient"), path)
    table = table[(table["file"] != "") & (table["patient"] != "")]
    file = table["file"].map(common_spelling).str.removeprefix("./")
    pairs = pd.DataFrame({"file": file, "patient": table["patient"]}).drop_duplicates()
    repeated = pairs["file"][pairs["file"].duplicated()]
    if len(repeated):
        first, second = file.index[file == repeated.iloc[0]][0], repeated.index[0]
        raise UserError(
            f"{path} has two patients for {quoted(repeated.iloc[0])}, in rows {first} and {second} (counted from 0); delete one row"
        )
    return dict(zip(pairs["file"], pairs["patient"], strict=True))
