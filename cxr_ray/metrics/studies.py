"""Predictions by study: combines the probabilities and labels of the images of a study, as CheXpert's evaluation does."""
# N images, S studies

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

Method = Literal["max", "mean"]


def combine(predictions: pd.DataFrame, labels: Sequence[str], *, method: Method, task: str) -> pd.DataFrame:
    """A predictions table with one row per study (patient and study together) instead of one per image.

    Each column of probabilities (`prob/LABEL`, `NAME:prob/LABEL` of a baseline) becomes its maximum or mean over the images of the
    study (Irvin et al. 2019 use the maximum, arXiv:1901.07031). A label is positive if it is positive in any image, else negative if
    it is negative in any image, else unknown; a study whose images have several classes is unknown; predictions of new
    images have no truth. Their `unusual_score` is that of the most unusual image. An image without a study is a study of its own. The other columns are those of the study's first image; the new column `images` [S] counts its images."""
    no_study = predictions["study"].isna() | predictions["patient"].isna()
    names = predictions["patient"].astype(str) + "\x1f" + predictions["study"].astype(str)
    key = np.where(no_study, "\x1f\x1f" + predictions["row"].astype(str), names)
    number = pd.factorize(key)[0]
    truth = [f"true/{k}" for k in labels if f"true/{k}" in predictions]
    prob = [c for c in predictions.columns if c.startswith("prob/") or ":prob/" in c]
    grouped = predictions.groupby(number, sort=True)
    out = grouped.first()  # the first known value of each column; truth and probabilities are replaced below
    first = predictions.loc[~pd.Series(number, index=predictions.index).duplicated()]
    out["row"], out["source_row"] = first["row"].to_numpy(), first["source_row"].to_numpy()
    out[prob] = grouped[prob].max() if method == "max" else grouped[prob].mean()
    if truth:
        out[truth] = grouped[truth].max()  # skips NaN: any 1 gives 1, else any 0 gives 0
    if truth and task == "multiclass":
        out.loc[out[truth].sum(axis=1) != 1, truth] = np.nan
    if "unusual_score" in predictions:
        out["unusual_score"] = grouped["unusual_score"].max()
    out["images"] = grouped.size()
    return out.reset_index(drop=True)[[*predictions.columns, "images"]]
