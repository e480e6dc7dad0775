"""Images of one study judged together, as CheXpert is: its probabilities combined, its labels the study's."""
# N images, S studies

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

How = Literal["max", "mean"]


def combine(predictions: pd.DataFrame, labels: Sequence[str], *, how: How, task: str) -> pd.DataFrame:
    """A predictions table with a row a study (patient and study together) in place of a row an image.

    Every column of probabilities (`prob/LABEL`, `NAME:prob/LABEL` of a rival) becomes its largest or its mean over the
    study's images (Irvin et al. 2019 take the largest, arXiv:1901.07031). A label is positive where any of its images
    says so, negative where some say no and none yes, else unknown; a study whose images name several classes is unknown.
    An image without a study stands for itself. The other columns are those of the study's first image; `images` [S]
    counts them."""
    alone = predictions["study"].isna() | predictions["patient"].isna()
    names = predictions["patient"].astype(str) + "\x1f" + predictions["study"].astype(str)
    key = np.where(alone, "\x1f\x1f" + predictions["row"].astype(str), names)
    number = pd.factorize(key)[0]
    truth = [f"true/{k}" for k in labels]
    prob = [c for c in predictions.columns if c.startswith("prob/") or ":prob/" in c]
    grouped = predictions.groupby(number, sort=True)
    out = grouped.first()  # the first known of each column; truth and probabilities are laid over it
    first = predictions.loc[~pd.Series(number, index=predictions.index).duplicated()]
    out["row"], out["source_row"] = first["row"].to_numpy(), first["source_row"].to_numpy()
    out[prob] = grouped[prob].max() if how == "max" else grouped[prob].mean()
    out[truth] = grouped[truth].max()  # NaN is passed over: any 1 is 1, else any 0 is 0
    if task == "multiclass":
        out.loc[out[truth].sum(axis=1) != 1, truth] = np.nan
    out["images"] = grouped.size()
    return out.reset_index(drop=True)[[*predictions.columns, "images"]]
