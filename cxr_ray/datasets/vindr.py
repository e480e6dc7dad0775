"""VinDr-CXR (Nguyen et al. 2022, doi:10.1038/s41597-022-01498-w): three readers a training image, five in consensus a test one."""

from typing import Literal

import numpy as np
import pandas as pd

from cxr_ray.datasets.base import BOX_COLUMNS, Records, need_columns, records_table
from cxr_ray.datasets.cells import marks, numbers, read_text
from cxr_ray.datasets.folders import below, by_name, file_like, picture_size, placed
from cxr_ray.errors import UserError, unknown
from cxr_ray.labels import POSITIVE, UNCERTAIN, safe_name
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import Place

NAMES = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding",
)  # fmt: skip
LABELS = tuple(safe_name(name) for name in NAMES)
KAGGLE = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration",
    "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis", "No finding",
)  # fmt: skip
"""Classes of train.csv as Kaggle has it (VinBigData Chest X-ray Abnormalities Detection)."""
DRIFT = {"Other disease": "Other diseases"}
"""Columns that the test table calls otherwise."""
PARTS = ("train", "test")
DICOM = (".dicom", ".dcm")
NOTE = "the dataset names no patients: pictures of one person may fall into two parts (the official ones are held to be apart)"


class VindrOptions(Options):
    """What only VinDr-CXR needs to be told."""

    readers: Literal["majority", "any", "all", "uncertain"] = "majority"
    """When a training image is positive: more than half of its readers say so, any, or all; uncertain: where they disagree
    the label is uncertain (-1), and `data.uncertain` decides."""


@SOURCES.register("vindr", VindrOptions)
def vindr(root: Place, options: VindrOptions) -> Records:
    """VinDr-CXR: annotations/image_labels_*.csv and annotations_*.csv, or Kaggle's train.csv; DICOM, PNG or JPEG files.

    Pictures lie in train/ and test/. One row an image; its readers' labels are joined as `readers` says, and the column
    `readers` counts them. Boxes are kept where the joined label is positive, each reader's own, in pixels of the DICOM;
    beside converted pictures that are smaller they are scaled by the sizes of *_meta.csv (image_id, dim0, dim1), or left out
    with a note. `split` is the official one. Kaggle's table has the boxes alone, of 14 findings and `No finding`: what a reader
    drew is positive for that reader, every other class negative; its test images have no labels and are left out. Raises
    `UserError` for a missing table or column, a reader listed twice for an image, and a cell that is neither 0 nor 1."""
    home = root / "annotations" if (root / "annotations").is_dir() else root
    tables, boxes = [], []
    names: tuple[str, ...] = NAMES
    parts: tuple[str, ...] = PARTS
    if (root / "train.csv").is_file() and not (home / "image_labels_train.csv").is_file():
        names, parts = KAGGLE, PARTS[:1]
        tables.append(_read_kaggle(root / "train.csv", options.readers))
        boxes.append(_drawn(root / "train.csv", "train"))
    else:
        for part in parts:
            path = file_like(home, f"image_labels_{part}.csv")
            tables.append(_read(path, part, options.readers))
            drawn = home / f"annotations_{part}.csv"
            if drawn.is_file():
                boxes.append(_drawn(drawn, part))
    labels = tuple(safe_name(name) for name in names)
    raw = pd.concat(tables, ignore_index=True)
    there = {part: by_name(root, [part], stem=True) for part in parts}
    found = [
        placed(name, there[part], below(part, (name + ".dicom").where(name != "", "")))
        for part, name in ((part, raw["name"][raw["split"] == part]) for part in parts)
    ]
    columns = {
        "image": pd.concat(found),
        "source_row": raw["source_row"],
        "split": raw["split"] if len(parts) > 1 else None,
        "readers": raw["readers"],
    }
    table = records_table(columns, {label: raw[label] for label in labels}, rows=len(raw))
    key = raw["split"] + "/" + raw["name"]
    drawn_boxes = pd.concat(boxes, ignore_index=True) if boxes else None
    placed_boxes, told = (None, []) if drawn_boxes is None else _boxes(drawn_boxes, key, table, labels, root, home)
    return Records(
        table=table,
        labels=labels,
        task="multilabel",
        groups={},
        filters=(),
        default_labels=tuple(label for label in labels if label != "No finding"),
        features=(),
        notes=(NOTE, *told),
        boxes=placed_boxes,
    )


def _read(path: Place, part: str, how: str) -> pd.DataFrame:
    """One row an image: name, split, source_row (of its first reader), readers, and the joined labels."""
    raw = read_text(path, like="VinDr's labels").rename(columns=DRIFT)
    need_columns(raw, ("image_id", *NAMES), path)
    voter = ["image_id", *(["rad_id"] if "rad_id" in raw else [])]
    twice = raw[raw.duplicated(voter)]
    if len(twice):
        raise UserError(f"{path} lists {' of reader '.join(twice[voter].iloc[0])} twice; keep one row of it")
    votes = pd.DataFrame({safe_name(name): marks(raw, name, path, {"1": 1.0, "0": 0.0}) for name in NAMES})
    return _joined(raw["image_id"].str.strip(), votes, part, how)


def _read_kaggle(path: Place, how: str) -> pd.DataFrame:
    """As `_read`, of a table with a row a box, or a row for a reader who found nothing."""
    raw = read_text(path, like="VinDr's boxes")
    need_columns(raw, ("image_id", "rad_id", "class_name"), path)
    image, reader, name = (raw[column].str.strip() for column in ("image_id", "rad_id", "class_name"))
    strange = sorted(set(name) - set(KAGGLE))
    if strange:
        raise unknown("finding", strange[0], KAGGLE, where=f" in {path}")
    said = pd.DataFrame({safe_name(k): (name == k).astype(np.float32) for k in KAGGLE})
    votes = said.groupby([image, reader], sort=False).max()
    of = pd.Series(votes.index.get_level_values(0))
    joined = _joined(of, votes.reset_index(drop=True), "train", how)
    return joined.assign(source_row=joined["name"].map(pd.Series(raw.index, index=image).groupby(level=0).first()))


def _joined(image: "pd.Series[str]", votes: pd.DataFrame, part: str, how: str) -> pd.DataFrame:
    """One row an image, of what each of its readers said: `votes` [readers of all images, labels], `image` whose each is."""
    by_image = votes.groupby(image, sort=False)
    share = by_image.mean()
    joined = {
        "majority": share > 0.5,
        "any": share > 0,
        "all": share == 1,
        "uncertain": share == 1,
    }[how].astype(np.float32)
    if how == "uncertain":
        joined = joined.mask((share > 0) & (share < 1), UNCERTAIN)
    joined = joined.mask(share.isna())
    first = by_image.head(1).index
    head = pd.DataFrame(
        {"name": joined.index, "split": part, "source_row": first, "readers": by_image.size().to_numpy()}
    )
    return pd.concat([head, joined.reset_index(drop=True)], axis=1)


def _drawn(path: Place, part: str) -> pd.DataFrame:
    """Every box of a table: key (PART/NAME), label, x, y, w, h; a reader who found nothing drew none."""
    raw = read_text(path, like="VinDr's boxes")
    need_columns(raw, ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max"), path)
    left, top, right, bottom = (numbers(raw, side, path) for side in ("x_min", "y_min", "x_max", "y_max"))
    label = raw["class_name"].str.strip().replace(DRIFT).map(safe_name)
    strange = sorted(set(label) - set(LABELS))
    if strange:
        raise unknown("finding", strange[0], LABELS, where=f" in {path}")
    body = {"key": f"{part}/" + raw["image_id"].str.strip(), "label": label}
    return pd.DataFrame({**body, "x": left, "y": top, "w": right - left, "h": bottom - top}).dropna()


def _boxes(
    drawn: pd.DataFrame, key: "pd.Series[str]", table: pd.DataFrame, labels: tuple[str, ...], root: Place, home: Place
) -> tuple[pd.DataFrame, list[str]]:
    """Boxes of positive labels in pixels of the pictures that are there, and what to say of those left out."""
    row = pd.Series(pd.Index(key).get_indexer(pd.Index(drawn["key"])), index=drawn.index)
    truth_NL = table[list(labels)].to_numpy()
    column = pd.Index(labels).get_indexer(pd.Index(drawn["label"]))
    kept = (row >= 0) & (truth_NL[row, column] == POSITIVE)
    boxes = drawn[kept].assign(row=row[kept].astype("int64"))[list(BOX_COLUMNS)].reset_index(drop=True)
    converted = {r: i for r, i in table["image"].iloc[boxes["row"].unique()].items() if not i.endswith(DICOM)}
    sizes = {r: size for r, image in converted.items() if (size := picture_size(root, image)) is not None}
    if not sizes:
        return boxes, []
    width, height = (boxes["row"].map({r: size[at] for r, size in sizes.items()}) for at in (0, 1))
    frames = [_frames(path) for path in home.glob("*_meta.csv")]
    if frames:
        frame = pd.concat(frames).reindex(key.iloc[boxes["row"]].str.rpartition("/")[2])
        across, down = width / frame["dim1"].to_numpy(), height / frame["dim0"].to_numpy()
        boxes[["x", "w"]] = boxes[["x", "w"]].mul(across.fillna(1.0), axis=0)
        boxes[["y", "h"]] = boxes[["y", "h"]].mul(down.fillna(1.0), axis=0)
    elif ((boxes["x"] + boxes["w"] > width + 1) | (boxes["y"] + boxes["h"] > height + 1)).any():
        told = f"{len(boxes)} boxes were left out: the pictures are smaller than the DICOMs that they were drawn in"
        return boxes[:0], [f"{told}, and no *_meta.csv (image_id, dim0, dim1) says how large those were"]
    return boxes, []


def _frames(path: Place) -> pd.DataFrame:
    """Height (dim0) and width (dim1) in pixels of each DICOM, by its name."""
    raw = read_text(path, like="the sizes of VinDr's DICOMs")
    need_columns(raw, ("image_id", "dim0", "dim1"), path)
    sizes = {side: numbers(raw, side, path) for side in ("dim0", "dim1")}
    return pd.DataFrame(sizes, index=raw["image_id"].str.strip()).groupby(level=0).first()
