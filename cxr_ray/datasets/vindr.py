"""VinDr-CXR (Nguyen et al. 2022, doi:10.1038/s41597-022-01498-w): three readers per training image, a consensus of five per test
image."""

from typing import Literal

import numpy as np
import pandas as pd

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import BOX_COLUMNS, Records, records_table
from cxr_ray.datasets.cells import parse_labels, parse_numbers
from cxr_ray.datasets.folders import find_file, image_size, join_folder, locate, paths_by_name
from cxr_ray.datasets.tables import read_text_table, require_columns
from cxr_ray.errors import UserError, shortened, unknown
from cxr_ray.labels import POSITIVE, UNCERTAIN, safe_name
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import AnyPath

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
"""Classes of Kaggle's train.csv (VinBigData Chest X-ray Abnormalities Detection)."""
RENAMED = {"Other disease": "Other diseases"}
"""Columns with another name in the test table."""
PARTS = ("train", "test")
DICOM = (".dicom", ".dcm")
NOTE = (
    "the dataset does not name patients: a split may put images of one person into two parts (the official parts are reported "
    "to share no patient)"
)


class VindrOptions(Options):
    """Options of VinDr-CXR."""

    readers: Literal["majority", "any", "all", "uncertain"] = "majority"
    """When a training image is positive: if more than half of its readers, any, or all mark the finding. uncertain: if
    they disagree, the label is uncertain (-1) and `data.uncertain` applies."""


@SOURCES.register("vindr", VindrOptions)
def vindr(root: AnyPath, options: VindrOptions) -> Records:
    """VinDr-CXR: annotations/image_labels_*.csv and annotations_*.csv, or Kaggle's train.csv; DICOM, PNG or JPEG files.

    Images are in train/ and test/. One row per image: the option `readers` combines its readers' labels, and the column
    `readers` counts them. Boxes are those of each reader with a positive combined label, in pixels of the DICOM. For smaller
    converted images they are scaled by the sizes in *_meta.csv (image_id, dim0, dim1), or dropped with a note. `split` is the
    official one. Kaggle's table has only boxes, of 14 findings and `No finding`: a finding that a reader drew is positive for
    that reader, all other classes negative. Its test images have no labels and are left out. Raises `UserError` for a missing
    table or column, a reader listed twice for an image, and a cell that is neither 0 nor 1."""
    table_folder = root / "annotations" if (root / "annotations").is_dir() else root
    tables, all_boxes = [], []
    names: tuple[str, ...] = NAMES
    parts: tuple[str, ...] = PARTS
    if (root / "train.csv").is_file() and not (table_folder / "image_labels_train.csv").is_file():
        names, parts = KAGGLE, PARTS[:1]
        tables.append(_read_kaggle(root / "train.csv", options.readers))
        all_boxes.append(_read_boxes(root / "train.csv", "train"))
    else:
        for part in parts:
            path = find_file(table_folder, f"image_labels_{part}.csv")
            tables.append(_read_labels(path, part, options.readers))
            box_path = table_folder / f"annotations_{part}.csv"
            if box_path.is_file():
                all_boxes.append(_read_boxes(box_path, part))
    labels = tuple(safe_name(name) for name in names)
    raw = pd.concat(tables, ignore_index=True)
    paths = {part: paths_by_name(root, [part], stem=True) for part in parts}
    image = [
        locate(name, paths[part], join_folder(part, (name + ".dicom").where(name != "", "")))
        for part, name in ((part, raw["name"][raw["split"] == part]) for part in parts)
    ]
    columns = {
        "image": pd.concat(image),
        "source_row": raw["source_row"],
        "split": raw["split"] if len(parts) > 1 else None,
        "readers": raw["readers"],
    }
    table = records_table(columns, {label: raw[label] for label in labels}, rows=len(raw))
    key = raw["split"] + "/" + raw["name"]
    boxes: pd.DataFrame | None = None
    box_notes: list[str] = []
    if all_boxes:
        boxes = _select_boxes(pd.concat(all_boxes, ignore_index=True), key, table, labels)
        boxes, box_notes = _to_image_pixels(boxes, key, table, root, table_folder)
    return Records(
        table=table,
        info=DatasetInfo(
            labels=labels,
            task="multilabel",
            default_labels=tuple(label for label in labels if label != "No finding"),
            notes=(NOTE, *box_notes),
        ),
        boxes=boxes,
    )


def _read_labels(path: AnyPath, part: str, how: str) -> pd.DataFrame:
    """One row per image: name, split, source_row (of its first reader), readers, and the combined labels."""
    raw = read_text_table(path, what="VinDr's labels").rename(columns=RENAMED)
    require_columns(raw, ("image_id", *NAMES), path)
    key = ["image_id", *(["rad_id"] if "rad_id" in raw else [])]
    repeated = raw.duplicated(key).to_numpy()
    if repeated.any():
        second = int(np.argmax(repeated))
        first = int(np.argmax((raw[key] == raw[key].iloc[second]).all(axis=1).to_numpy()))
        raise UserError(
            f"{path} lists {' of reader '.join(map(shortened, raw[key].iloc[second]))} twice, in rows {first} and {second} (counted from 0); "
            "delete one row"
        )
    votes = pd.DataFrame({safe_name(name): parse_labels(raw, name, path, {"1": 1.0, "0": 0.0}) for name in NAMES})
    return _combine(raw["image_id"].str.strip(), votes, part, how)


def _read_kaggle(path: AnyPath, how: str) -> pd.DataFrame:
    """As `_read_labels`, from a table with one row per box, or one row for a reader without a finding."""
    raw = read_text_table(path, what="VinDr's boxes")
    require_columns(raw, ("image_id", "rad_id", "class_name"), path)
    image, reader, name = (raw[column].str.strip() for column in ("image_id", "rad_id", "class_name"))
    _check_findings(name, KAGGLE, path)
    drawn = pd.DataFrame({safe_name(k): (name == k).astype(np.float32) for k in KAGGLE})
    votes = drawn.groupby([image, reader], sort=False).max()
    image_of_vote = pd.Series(votes.index.get_level_values(0))
    combined = _combine(image_of_vote, votes.reset_index(drop=True), "train", how)
    return combined.assign(source_row=combined["name"].map(pd.Series(raw.index, index=image).groupby(level=0).first()))


def _combine(image: "pd.Series[str]", votes: pd.DataFrame, part: str, how: str) -> pd.DataFrame:
    """One row per image from its readers' labels: `votes` [readers of all images, labels], and the `image` of each vote."""
    by_image = votes.groupby(image, sort=False)
    share = by_image.mean()
    combined = {
        "majority": share > 0.5,
        "any": share > 0,
        "all": share == 1,
        "uncertain": share == 1,
    }[how].astype(np.float32)
    if how == "uncertain":
        combined = combined.mask((share > 0) & (share < 1), UNCERTAIN)
    combined = combined.mask(share.isna())
    first = by_image.head(1).index
    head = pd.DataFrame(
        {"name": combined.index, "split": part, "source_row": first, "readers": by_image.size().to_numpy()}
    )
    return pd.concat([head, combined.reset_index(drop=True)], axis=1)


def _check_findings(name: "pd.Series[str]", known: tuple[str, ...], path: AnyPath) -> None:
    wrong = ~name.isin(known)
    if wrong.any():
        at = int(np.argmax(wrong.to_numpy()))
        raise unknown("finding", name.iloc[at], known, where=f" in {path}, row {at} (counted from 0)")


def _read_boxes(path: AnyPath, part: str) -> pd.DataFrame:
    """All boxes of a table: key (PART/NAME), label, x, y, w, h. Rows of readers without a finding have no box."""
    raw = read_text_table(path, what="VinDr's boxes")
    require_columns(raw, ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max"), path)
    left, top, right, bottom = (parse_numbers(raw, side, path) for side in ("x_min", "y_min", "x_max", "y_max"))
    label = raw["class_name"].str.strip().replace(RENAMED).map(safe_name)
    _check_findings(label, LABELS, path)
    body = {"key": f"{part}/" + raw["image_id"].str.strip(), "label": label}
    return pd.DataFrame({**body, "x": left, "y": top, "w": right - left, "h": bottom - top}).dropna()


def _select_boxes(
    boxes: pd.DataFrame, key: "pd.Series[str]", table: pd.DataFrame, labels: tuple[str, ...]
) -> pd.DataFrame:
    """`BOX_COLUMNS` of the boxes whose combined label is positive. `key` is PART/NAME of each row of `table`."""
    row = pd.Series(pd.Index(key).get_indexer(pd.Index(boxes["key"])), index=boxes.index)
    truth_NL = table[list(labels)].to_numpy()
    column = pd.Index(labels).get_indexer(pd.Index(boxes["label"]))
    selected = (row >= 0) & (truth_NL[row, column] == POSITIVE)
    return boxes[selected].assign(row=row[selected].astype("int64"))[list(BOX_COLUMNS)].reset_index(drop=True)


def _to_image_pixels(
    boxes: pd.DataFrame, key: "pd.Series[str]", table: pd.DataFrame, root: AnyPath, table_folder: AnyPath
) -> tuple[pd.DataFrame, list[str]]:
    """Boxes in pixels of the existing images instead of the DICOMs, and a note about those that were dropped."""
    converted = {r: i for r, i in table["image"].iloc[boxes["row"].unique()].items() if not i.endswith(DICOM)}
    sizes = {r: size for r, image in converted.items() if (size := image_size(root, image)) is not None}
    if not sizes:
        return boxes, []
    width, height = (boxes["row"].map({r: size[at] for r, size in sizes.items()}) for at in (0, 1))
    tables = [_read_dicom_sizes(path) for path in table_folder.glob("*_meta.csv")]
    if tables:
        dicom_size = pd.concat(tables).reindex(key.iloc[boxes["row"]].str.rpartition("/")[2])
        scale_x, scale_y = width / dicom_size["dim1"].to_numpy(), height / dicom_size["dim0"].to_numpy()
        boxes[["x", "w"]] = boxes[["x", "w"]].mul(scale_x.fillna(1.0), axis=0)
        boxes[["y", "h"]] = boxes[["y", "h"]].mul(scale_y.fillna(1.0), axis=0)
    elif ((boxes["x"] + boxes["w"] > width + 1) | (boxes["y"] + boxes["h"] > height + 1)).any():
        problem = (
            f"{len(boxes)} boxes were dropped: the images are smaller than the DICOMs in which the boxes were drawn"
        )
        return boxes[:0], [f"{problem}, and there is no *_meta.csv (image_id, dim0, dim1) with the sizes of the DICOMs"]
    return boxes, []


def _read_dicom_sizes(path: AnyPath) -> pd.DataFrame:
    """Height (dim0) and width (dim1) in pixels of each DICOM, indexed by its name."""
    raw = read_text_table(path, what="the sizes of VinDr's DICOMs")
    require_columns(raw, ("image_id", "dim0", "dim1"), path)
    sizes = {side: parse_numbers(raw, side, path) for side in ("dim0", "dim1")}
    return pd.DataFrame(sizes, index=raw["image_id"].str.strip()).groupby(level=0).first()
