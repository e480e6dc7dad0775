"""NIH ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315): its table, official split lists, and the radiologists' boxes."""

from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import BOX_COLUMNS, Records, records_table
from cxr_ray.datasets.cells import FIX, clean_codes, clean_text, parse_findings, parse_numbers
from cxr_ray.datasets.folders import find_file, image_size, join_folder, locate, paths_by_name, subfolders
from cxr_ray.datasets.persons import parse_ages, parse_sex
from cxr_ray.datasets.tables import first_column, read_text_table, require_columns, row_error
from cxr_ray.errors import UserError, quoted, shortened
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import AnyPath

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia", "Infiltration",
    "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
NO_FINDING = "No Finding"
LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
BOX_NAMES = {"Infiltrate": "Infiltration"}  # spelling in the box file
BOX_FRAME = 1024
"""Width in pixels of the images that the boxes refer to: all published images are 1024 x 1024."""


@SOURCES.register("nih")
def nih(root: AnyPath, options: Options) -> Records:
    """NIH ChestX-ray14: Data_Entry_2017*.csv, the official lists, BBox_List_2017.csv, and images/ or images_001/images/ ...

    A finding that is not listed is negative: the table lists all that the reports name. `split` is the official list: train
    for train_val_list.txt (val is split off from it), test for test_list.txt. A study is a patient's follow-up number. Boxes
    are in pixels of the existing images, so resized copies work too. Raises `UserError` for a missing table or column, a
    finding other than the 14, `No Finding` together with a finding, and an image in both lists."""
    path = find_file(root, "Data_Entry_2017*.csv")
    raw = read_text_table(path, what="NIH's table")
    require_columns(
        raw, ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "View Position"), path
    )
    name = raw["Image Index"].str.strip()
    paths = paths_by_name(root, [folder for folder in subfolders(root) if folder.startswith("images")])
    split, split_notes = _split(root, name)
    ages, age_notes = parse_ages(raw, "Patient Age", path)  # the first release has 058Y, 013M and 002D
    columns = {
        "image": locate(name, paths, join_folder("images", name)),
        "patient": clean_text(raw["Patient ID"]),
        "study": clean_text(raw["Patient ID"]) + "/" + clean_text(raw["Follow-up #"]),
        "view": clean_codes(raw["View Position"]),
        "sex": parse_sex(raw[first_column(raw, ("Patient Gender", "Patient Sex"), path)]),
        "age": ages,
        "split": split,
    }
    labels = _findings(raw["Finding Labels"], path)
    boxes, box_notes = _boxes(root, name, paths)
    return Records(
        table=records_table(columns, labels, rows=len(raw)),
        info=DatasetInfo(
            labels=tuple(labels),
            task="multilabel",
            default_labels=FINDINGS,
            features=("view", "sex"),
            notes=(*split_notes, *age_notes, *box_notes),
        ),
        boxes=boxes,
    )


def _findings(cells: "pd.Series[str]", path: AnyPath) -> dict[str, np.ndarray]:
    blank = clean_text(cells).isna().to_numpy()
    if blank.any():
        problem = f"{cells.name!r} is blank; write {NO_FINDING!r} if there is no finding, or download the file again"
        raise row_error(path, int(np.argmax(blank)), problem)
    labels = parse_findings(cells, path, split=lambda cell: cell.split("|"), known=(*FINDINGS, NO_FINDING))
    both = (labels[NO_FINDING] == 1) & (sum(labels[finding] for finding in FINDINGS) > 0)
    if both.any():
        at = int(np.argmax(both))
        problem = f"{cells.name!r} is {quoted(cells.iloc[at])}: {NO_FINDING!r} together with a finding; {FIX}"
        raise row_error(path, at, problem)
    return labels


def _split(root: AnyPath, name: "pd.Series[str]") -> tuple["pd.Series[str]", list[str]]:
    """The part of each image by the official lists, and a note about images in no list."""
    lists = {
        part: (root / file).read_text(encoding="utf-8-sig").split()
        for file, part in LISTS.items()
        if (root / file).is_file()
    }
    both = set(lists.get("train", ())) & set(lists.get("test", ()))
    if both:
        raise UserError(
            f"{root.absolute()}: {shortened(sorted(both)[0])} is in both {' and '.join(LISTS)}; download the lists again"
        )
    split = name.map({image: part for part, images in lists.items() for image in images})
    absent = int(split.isna().sum()) if lists else 0
    return split, [f"{absent} of {len(name)} images are in no official list"] if absent else []


def _boxes(root: AnyPath, name: "pd.Series[str]", paths: dict[str, str]) -> tuple[pd.DataFrame | None, list[str]]:
    """The boxes of the images in the table, and a note about the others."""
    path = root / "BBox_List_2017.csv"
    if not path.is_file():
        return None, []
    raw = read_text_table(path, what="NIH's boxes")
    require_columns(raw, ("Image Index", "Finding Label"), path)
    if len(raw.columns) < 6:
        raise UserError(
            f"{path} has {len(raw.columns)} columns, not six (image, finding, and the box's x, y, w, h); download it again"
        )
    raw = raw.assign(**{column: raw[column].str.strip() for column in ("Image Index", "Finding Label")})
    row = raw["Image Index"].map(pd.Series(name.index, index=name).groupby(level=0).first())
    listed = row.notna()
    sizes = {image: image_size(root, paths.get(image, "")) for image in raw["Image Index"][listed].unique()}
    scale = raw["Image Index"].map({image: size[0] / BOX_FRAME if size else 1.0 for image, size in sizes.items()})
    body: dict[str, Any] = {"row": row, "label": raw["Finding Label"].replace(BOX_NAMES)}
    body |= {side: parse_numbers(raw, str(raw.columns[at]), path) * scale for at, side in enumerate("xywh", start=2)}
    boxes = pd.DataFrame(body)[listed].astype({"row": "int64"}).reset_index(drop=True)[list(BOX_COLUMNS)]
    unlisted = int((~listed).sum())
    return boxes, [f"{unlisted} boxes are of images that the table does not list"] if unlisted else []
