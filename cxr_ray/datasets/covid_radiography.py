"""COVID-19 Radiography Database (Chowdhury et al. 2020, Rahman et al. 2021): its folders, masks and metadata sheets."""

import warnings
from collections import Counter
from pathlib import PurePosixPath
from zipfile import BadZipFile

import pandas as pd

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import Records, records_table
from cxr_ray.datasets.cells import url_host
from cxr_ray.datasets.classes import class_columns, other_class
from cxr_ray.datasets.folders import find_images, note_of_others, subfolders
from cxr_ray.datasets.tables import TEXT, require_columns
from cxr_ray.errors import UserError
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import AnyPath, local_copy

CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
FOLDERS = {name.casefold(): name for name in CLASSES} | {"covid-19": "COVID"}  # names of releases since 2020
NOTES = (
    "in this dataset the class depends on the source of the image (each class comes from other hospitals and collections): "
    "metrics are too high, because a model can recognise the source",
    "the dataset does not name patients: a split may put images of one person into two parts",
)


@SOURCES.register("covid_radiography")
def covid_radiography(root: AnyPath, options: Options) -> Records:
    """COVID-19 Radiography Database: CLASS/images, CLASS/masks and CLASS.metadata.xlsx; older releases without images/.

    `mask` is the path of an image's lung mask, `url` its URL in the metadata sheet (NaN without a sheet), and `source` the host of that.
    Raises `UserError` if fewer than two of the class folders exist, or one is empty."""
    found = {FOLDERS[name.casefold()]: name for name in subfolders(root) if name.casefold() in FOLDERS}
    if len(found) < 2:
        inner = [name for name in subfolders(root) if any(c.casefold() in FOLDERS for c in subfolders(root / name))]
        where = (
            f"they are in {(root / inner[0]).absolute()}: give that folder" if inner else "give the folder with them"
        )
        raise UserError(f"{root.absolute()} has {len(found)} of the class folders {', '.join(CLASSES)}; {where}")
    sheets = {path.name.casefold(): path for path in root.iterdir() if path.suffix.lower() == ".xlsx"}
    rows: list[tuple[str, str, str | None, str | None]] = []  # image, class, url, mask
    unread: Counter[str] = Counter()
    for name in sorted(found):
        folder = root / found[name]
        levels = {level.casefold(): level for level in subfolders(folder)}
        paths, others = find_images(folder / levels["images"] if "images" in levels else folder, root)
        unread += others
        if "images" not in levels:
            paths = [path for path in paths if PurePosixPath(path).parent.name.casefold() != "masks"]
        if not paths:
            raise UserError(f"the class folder {folder.absolute()} has no image; download the dataset again")
        masks: dict[str, str] = {}
        if "masks" in levels:
            masks = {
                PurePosixPath(path).name.casefold(): path for path in find_images(folder / levels["masks"], root)[0]
            }
        sheet = sheets.get(f"{name}.metadata.xlsx".casefold()) or sheets.get(f"{found[name]}.metadata.xlsx".casefold())
        urls = _urls(sheet) if sheet else {}
        for path in paths:
            file = PurePosixPath(path)
            rows.append((path, name, urls.get(file.stem.casefold()), masks.get(file.name.casefold())))
    rows.sort()
    task, columns = class_columns([row[1] for row in rows], sorted(found))
    table = records_table(
        {
            "image": [row[0] for row in rows],
            "source": [row[2] and url_host(row[2]) for row in rows],
            "mask": [row[3] for row in rows],
            "url": pd.array([row[2] for row in rows], dtype=TEXT),
        },
        columns,
        rows=len(rows),
    )
    labels = tuple(columns)
    return Records(
        table=table,
        info=DatasetInfo(
            labels=labels,
            task=task,
            other_class=other_class(found, labels),
            default_labels=labels,
            features=("source",),
            notes=(*NOTES, *note_of_others(unread)),
        ),
    )


def _urls(sheet: AnyPath) -> dict[str, str]:
    """File stem, in lower case (the sheet has NORMAL-1, the file is Normal-1.png), to its URL, if that has a host."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # openpyxl warns of missing styles
            with local_copy(sheet) as file:
                table = pd.read_excel(file, engine="openpyxl", dtype=str, keep_default_na=False)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(
            f"cannot read {sheet} as a sheet: {' '.join(str(error).split())}; download it again, or remove it"
        ) from None
    table.columns = [str(column).strip().upper() for column in table.columns]
    require_columns(table, ("FILE NAME", "URL"), sheet)
    names = table["FILE NAME"].str.strip().str.casefold()
    urls = table["URL"].str.strip()
    return {str(name): str(url) for name, url in zip(names, urls, strict=True) if url_host(str(url))}
