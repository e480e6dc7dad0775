"""NIH ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315): its table, the official lists, and the radiologists' boxes."""

from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.datasets.base import BOX_COLUMNS, Records, need_columns, records_table
from cxr_ray.datasets.cells import either, matched, named, numbers, read_text, text
from cxr_ray.datasets.folders import below, by_name, file_like, picture_size, placed, subfolders
from cxr_ray.errors import UserError
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import Place

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia", "Infiltration",
    "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
NO_FINDING = "No Finding"
LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
BOX_NAMES = {"Infiltrate": "Infiltration"}  # the box file's spelling
BOX_FRAME = 1024
"""Width in pixels of the pictures that the boxes were drawn in: the published ones are all 1024 x 1024."""
OLDEST = 120
"""Years; the first release of the table has ages up to 414."""


@SOURCES.register("nih")
def nih(root: Place, options: Options) -> Records:
    """NIH ChestX-ray14: Data_Entry_2017*.csv, the official lists, BBox_List_2017.csv, and images/ or images_001/images/ ...

    A finding that is not listed is negative: the table lists all that the reports name. `split` is the official list:
    train for train_val_list.txt (val is cut from it), test for test_list.txt. A study is a patient's follow-up number. Boxes
    are in pixels of the pictures that lie there, so that resized copies fit too. Raises `UserError` for a missing table or
    column, a finding that is none of the 14, `No Finding` beside a finding, and an image that stands in both lists."""
    path = file_like(root, "Data_Entry_2017*.csv")
    raw = read_text(path, like="NIH's table")
    need_columns(
        raw, ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "View Position"), path
    )
    name = raw["Image Index"].str.strip()
    there = by_name(root, [folder for folder in subfolders(root) if folder.startswith("images")])
    split, notes = _split(root, name)
    columns = {
        "image": placed(name, there, below("images", name)),
        "patient": text(raw["Patient ID"]),
        "study": text(raw["Patient ID"]) + "/" + text(raw["Follow-up #"]),
        "view": text(raw["View Position"]),
        "sex": text(raw[either(raw, ("Patient Gender", "Patient Sex"), path)]),
        "age": _ages(raw, path),
        "split": split,
    }
    labels = _findings(raw["Finding Labels"], path)
    boxes, told = _boxes(root, name, there)
    return Records(
        table=records_table(columns, labels, rows=len(raw)),
        labels=tuple(labels),
        task="multilabel",
        groups={},
        filters=(),
        default_labels=FINDINGS,
        features=("view", "sex"),
        notes=(*notes, *told),
        boxes=boxes,
    )


def _findings(cells: "pd.Series[str]", path: Place) -> dict[str, np.ndarray]:
    blank = text(cells).isna().to_numpy()
    if blank.any():
        raise UserError(
            f"{path}: row {int(np.argmax(blank))} names no finding; NIH writes {NO_FINDING!r} where there is none"
        )
    labels = named(cells, path, split=lambda cell: cell.split("|"), known=(*FINDINGS, NO_FINDING))
    both = (labels[NO_FINDING] == 1) & (sum(labels[finding] for finding in FINDINGS) > 0)
    if both.any():
        at = int(np.argmax(both))
        raise UserError(f"{path}: row {at} says {cells.iloc[at]!r}; {NO_FINDING!r} stands alone")
    return labels


def _ages(raw: pd.DataFrame, path: Place) -> np.ndarray:
    """Years; the first release writes 058Y, 013M or 002D."""
    parts = matched(raw["Patient Age"].str.strip(), r"^(?P<number>\d+)(?P<unit>[YMWD])$")
    if parts["unit"].isna().all():
        years = numbers(raw, "Patient Age", path)
    else:
        per_year = parts["unit"].map({"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25})
        years = (pd.to_numeric(parts["number"]) / per_year).to_numpy(np.float64)
    return np.where(years <= OLDEST, years, np.nan)


def _split(root: Place, name: "pd.Series[str]") -> tuple["pd.Series[str]", list[str]]:
    """The part that the official lists give each image, and what to say of images that no list has."""
    lists = {
        part: (root / file).read_text(encoding="utf-8-sig").split()
        for file, part in LISTS.items()
        if (root / file).is_file()
    }
    both = set(lists.get("train", ())) & set(lists.get("test", ()))
    if both:
        raise UserError(
            f"{root.absolute()}: {sorted(both)[0]} stands in both {' and '.join(LISTS)}; download the lists again"
        )
    split = name.map({image: part for part, images in lists.items() for image in images})
    absent = int(split.isna().sum()) if lists else 0
    return split, [f"{absent} of {len(name)} images stand in no official list"] if absent else []


def _boxes(root: Place, name: "pd.Series[str]", there: dict[str, str]) -> tuple[pd.DataFrame | None, list[str]]:
    """The boxes of listed images, and what to say of the others."""
    path = root / "BBox_List_2017.csv"
    if not path.is_file():
        return None, []
    raw = read_text(path, like="NIH's boxes")
    need_columns(raw, ("Image Index", "Finding Label"), path)
    if len(raw.columns) < 6:
        raise UserError(
            f"{path} has {len(raw.columns)} columns; six are needed: image, finding, and the box's x, y, w, h"
        )
    row = raw["Image Index"].map(pd.Series(name.index, index=name).groupby(level=0).first())
    listed = row.notna()
    sizes = {image: picture_size(root, there.get(image, "")) for image in raw["Image Index"][listed].unique()}
    scale = raw["Image Index"].map({image: size[0] / BOX_FRAME if size else 1.0 for image, size in sizes.items()})
    body: dict[str, Any] = {"row": row, "label": raw["Finding Label"].replace(BOX_NAMES)}
    body |= {side: numbers(raw, str(raw.columns[at]), path) * scale for at, side in enumerate("xywh", start=2)}
    boxes = pd.DataFrame(body)[listed].astype({"row": "int64"}).reset_index(drop=True)[list(BOX_COLUMNS)]
    left = int((~listed).sum())
    return boxes, [f"{left} boxes are of images that the table does not list"] if left else []
