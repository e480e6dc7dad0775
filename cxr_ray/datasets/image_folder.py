"""Class folders, with or without split folders above them. Reads names, never pixels."""

import re
from collections import Counter
from pathlib import PurePosixPath

import pandas as pd
from pydantic import field_validator

from cxr_ray.datasets.base import PART_NAMES, Records, class_columns, need_columns, records_table
from cxr_ray.datasets.cells import read_text
from cxr_ray.datasets.folders import EXTENSIONS, given_file, images, subfolders
from cxr_ray.errors import UserError
from cxr_ray.labels import PARTS
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import Place


class ImageFolderOptions(Options):
    """What only class folders need to be told."""

    patient_regex: str | None = None
    """Regular expression searched in each file's name; its first group is the patient."""
    patients: str | None = None
    """CSV or Parquet of `file, patient` (file: path below the root), given from here or from the root; null: `patients.csv`
    in the root, if it is there."""
    positive: str | None = None
    """Of two classes, the one whose label is 1; null: the one not called normal, no finding, negative or healthy."""

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
            raise ValueError("the patient must stand in a group, such as ^(patient[0-9]+)_")
        return value


@SOURCES.register("image_folder", ImageFolderOptions)
def image_folder(root: Place, options: ImageFolderOptions) -> Records:
    """Folders named after classes (CLASS/image.png), or after splits and classes (Train/CLASS/image.png).

    Raises `UserError` where there are no class folders, one of them is empty, or the splits disagree on the classes."""
    splits = _splits(root)
    rows: list[tuple[str, str, str | None]] = []  # image, class, split
    others: Counter[str] = Counter()
    classes: list[str] = []
    for part, folder in splits:
        here = subfolders(folder)
        if len(here) < 2:
            raise UserError(
                f"{folder.absolute()} holds {'one class folder' if here else 'no class folders'}"
                f"{f' ({here[0]})' if here else ''}; an image folder has at least two: {folder.name}/CLASS/image.png"
            )
        if classes and here != classes:
            first, odd = splits[0][1].name, sorted(set(here) ^ set(classes))
            raise UserError(
                f"the classes of {folder.name} ({', '.join(here)}) are not those of {first} ({', '.join(classes)}); "
                f"add, rename or remove {', '.join(odd)}"
            )
        classes = here
        for name in here:
            _refuse_masks(folder / name)
            found, rest = images(folder / name, root)
            if not found:
                raise UserError(
                    f"the class folder {(folder / name).absolute()} holds no image ({' '.join(EXTENSIONS)}); fill it or remove it"
                )
            others += rest
            rows += [(path, name, part) for path in found]
    rows.sort()
    paths = [row[0] for row in rows]
    task, columns = class_columns([row[1] for row in rows], classes, positive=options.positive)
    patient, notes = _patients(root, paths, options)
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        notes.append(f"files in the class folders that are not images were left out: {kinds}")
    table = records_table(
        {"image": paths, "patient": patient, "split": [row[2] for row in rows]}, columns, rows=len(rows)
    )
    labels = tuple(columns)
    return Records(
        table=table, labels=labels, task=task, groups={}, filters=(), default_labels=labels, features=(), notes=tuple(notes), boxes=None
    )  # fmt: skip


def _splits(root: Place) -> list[tuple[str | None, Place]]:
    """(part, folder) of each split folder, train first; one (None, root) where the root holds the classes."""
    names = subfolders(root)
    parts = {name: PART_NAMES[name.casefold()] for name in names if name.casefold() in PART_NAMES}
    if not parts:
        return [(None, root)]
    for name in names:
        if name not in parts and images(root / name, root)[0]:
            raise UserError(
                f"{root.absolute()} mixes split folders ({', '.join(parts)}) with {name}, which holds images; move it away"
            )
    doubled = [part for part, times in Counter(parts.values()).items() if times > 1]
    if doubled:
        both = [name for name, part in parts.items() if part == doubled[0]]
        raise UserError(f"{root.absolute()}: {' and '.join(both)} both mean {doubled[0]}; keep one")
    return sorted(((part, root / name) for name, part in parts.items()), key=lambda pair: PARTS.index(str(pair[0])))


def _refuse_masks(folder: Place) -> None:
    if "masks" in [name.casefold() for name in subfolders(folder)]:
        raise UserError(
            f"{folder.absolute()} holds a folder of masks, which would be read as X-rays; is it the source covid_radiography? "
            "Otherwise move the masks away"
        )


def _patients(root: Place, paths: list[str], options: ImageFolderOptions) -> tuple[list[str | None], list[str]]:
    """The patient of each image, None where unknown, and notes."""
    if options.patient_regex is not None and options.patients is not None:
        raise UserError("give --patient-regex or --patients, not both")
    patient: list[str | None]
    if options.patient_regex is not None:
        pattern = re.compile(options.patient_regex)
        hits = [pattern.search(PurePosixPath(path).name) for path in paths]
        patient = [hit.group(1) if hit else None for hit in hits]
        told = f"--patient-regex {options.patient_regex!r}"
    elif options.patients is not None or (root / "patients.csv").is_file():
        path = given_file(options.patients, root) if options.patients else root / "patients.csv"
        known = _patients_table(path)
        patient = [known.get(name) for name in paths]
        told = str(path)
    else:
        return [None] * len(paths), []
    patient = [p or None for p in patient]
    missing = sum(p is None for p in patient)
    if missing == len(paths):
        raise UserError(f"{told} gives no patient for any of the {len(paths)} images; the first is {paths[0]!r}")
    return patient, [f"{missing} of {len(paths)} images have no patient in {told}"] if missing else []


def _patients_table(path: Place) -> dict[str, str]:
    """File (posix, below the root) to patient."""
    if not path.is_file():
        raise UserError(
            f"no table of patients at {path.absolute()}; --patients is a CSV or Parquet of file,patient below the root"
        )
    table = read_text(path, like="a table of patients")
    need_columns(table, ("file", "patient"), path)
    table = table[(table["file"] != "") & (table["patient"] != "")]
    file = table["file"].str.replace("\\", "/").str.removeprefix("./")
    pairs = pd.DataFrame({"file": file, "patient": table["patient"]}).drop_duplicates()
    doubled = pairs["file"][pairs["file"].duplicated()]
    if len(doubled):
        raise UserError(f"{path} gives {doubled.iloc[0]!r} to two patients; keep one line a file")
    return dict(zip(pairs["file"], pairs["patient"], strict=True))
