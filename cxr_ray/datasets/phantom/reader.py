"""Reads the layout that `phantom.generate` writes, as any other dataset. Draws nothing."""

import pandas as pd

from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets.base import Records, records_table
from cxr_ray.datasets.phantom.generate import BOX_COLUMNS, FINDINGS, RECORD_COLUMNS
from cxr_ray.datasets.tables import read_csv, require_columns, row_error
from cxr_ray.errors import UserError, quoted
from cxr_ray.registry import SOURCES, Options
from cxr_ray.storage.remote import AnyPath

NOTE = "synthetic X-rays: metrics on them test the software, and mean nothing for patients"


@SOURCES.register("phantom")
def phantom(root: AnyPath, options: Options) -> Records:
    """Synthetic chest X-rays that `cxr-ray phantom` wrote: phantom.csv, boxes.csv and images/.

    Raises `UserError` if there is no phantom.csv (the folder is unfinished), or if it lacks a column."""
    path = root / "phantom.csv"
    if not path.is_file():
        raise UserError(
            f"no phantom.csv in {root.absolute()}: the phantom is unfinished; write it again, to a new folder"
        )
    raw = read_csv(path, what="the phantom's table")
    require_columns(raw, RECORD_COLUMNS, path)
    columns = {name: raw[name] for name in RECORD_COLUMNS if name not in FINDINGS}
    return Records(
        table=records_table(columns, {name: raw[name] for name in FINDINGS}, rows=len(raw)),
        info=DatasetInfo(
            labels=FINDINGS,
            task="multilabel",
            default_labels=FINDINGS,
            features=("view", "sex"),
            notes=(NOTE,),
        ),
        boxes=_boxes(root / "boxes.csv", raw["image"]),
    )


def _boxes(path: AnyPath, image: pd.Series) -> pd.DataFrame:
    raw = read_csv(path, what="the phantom's boxes")
    require_columns(raw, BOX_COLUMNS, path)
    row = raw["image"].map(pd.Series(image.index, index=image))
    if row.isna().any():
        at = int(row.isna().to_numpy().argmax())
        raise row_error(
            path,
            at,
            f"phantom.csv does not list {quoted(raw['image'].iloc[at])}; write the phantom again, to a new folder",
        )
    return raw.drop(columns="image").assign(row=row.astype("int64"))[["row", *BOX_COLUMNS[1:]]]
