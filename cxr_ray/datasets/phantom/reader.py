"""The layout that `phantom.generate` writes, read like any other dataset. Draws nothing."""

import pandas as pd

from cxr_ray.datasets import Records, need_columns, read_csv, records_table
from cxr_ray.datasets.phantom.generate import BOX_COLUMNS, FINDINGS, RECORD_COLUMNS
from cxr_ray.errors import UserError
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import Place

NOTE = "synthetic X-rays: what a model reaches here says that the machinery works and nothing about patients"


@SOURCES.register("phantom")
def phantom(root: Place, options: Options) -> Records:
    """Synthetic chest X-rays that `cxr-ray phantom` wrote: phantom.csv, boxes.csv and images/.

    Raises `UserError` where phantom.csv is not there (an unfinished folder) or lacks a column."""
    path = root / "phantom.csv"
    if not path.is_file():
        raise UserError(
            f"no phantom.csv in {root.absolute()}; it is written last, so write the phantom again, to a new folder"
        )
    raw = read_csv(path, like="the phantom's table")
    need_columns(raw, RECORD_COLUMNS, path)
    columns = {name: raw[name] for name in RECORD_COLUMNS if name not in FINDINGS}
    return Records(
        table=records_table(columns, {name: raw[name] for name in FINDINGS}, rows=len(raw)),
        labels=FINDINGS,
        task="multilabel",
        groups={},
        filters=(),
        default_labels=FINDINGS,
        features=("view", "sex"),
        notes=(NOTE,),
        boxes=_boxes(root / "boxes.csv", raw["image"]),
    )


def _boxes(path: Place, image: pd.Series) -> pd.DataFrame:
    raw = read_csv(path, like="the phantom's boxes")
    need_columns(raw, BOX_COLUMNS, path)
    row = raw["image"].map(pd.Series(image.index, index=image))
    if row.isna().any():
        raise UserError(f"{path} has a box of {raw['image'][row.isna()].iloc[0]!r}, which phantom.csv does not list")
    return raw.drop(columns="image").assign(row=row.astype("int64"))[["row", *BOX_COLUMNS[1:]]]
