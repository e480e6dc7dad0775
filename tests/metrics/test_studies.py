"""Studies against a loop over their images."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray.metrics.studies import combine

LABELS = ["a", "b"]


@pytest.mark.parametrize("method", ["max", "mean"])
def test_a_study_combines_its_images(method: Any) -> None:
    rng = np.random.default_rng(3)
    rows = 60
    frame = pd.DataFrame({"row": np.arange(rows) + 5, "source_row": np.arange(rows)})
    frame["patient"] = [f"p{i}" if i != 9 else None for i in rng.integers(0, 12, rows)]
    frame["study"] = [f"s{i}" for i in rng.integers(0, 2, rows)]
    for label in LABELS:
        frame[f"true/{label}"] = rng.choice([0.0, 1.0, math.nan], rows)
        frame[f"prob/{label}"] = rng.random(rows).astype(np.float32)
        frame[f"border:prob/{label}"] = rng.random(rows)
    combined = combine(frame, LABELS, method=method, task="multilabel")
    assert combined["images"].sum() == rows
    # An image without a patient is a study of its own.
    assert combined["patient"].isna().sum() == frame["patient"].isna().sum()
    for _, study in combined.iterrows():
        same = (frame["patient"] == study["patient"]) & (frame["study"] == study["study"])
        images = frame[same] if same.any() else frame[frame["row"] == study["row"]]
        assert len(images) == study["images"] and study["row"] == images["row"].iloc[0]
        for label in LABELS:
            for column in (f"prob/{label}", f"border:prob/{label}"):
                assert study[column] == pytest.approx(getattr(np, method)(images[column]), abs=1e-6)
            known = images[f"true/{label}"].dropna()
            expected = max(known) if len(known) else math.nan
            assert study[f"true/{label}"] == pytest.approx(expected, nan_ok=True)


def test_a_study_of_two_classes_is_unknown() -> None:
    frame = pd.DataFrame({"row": [1, 2, 3], "source_row": [1, 2, 3], "patient": "p", "study": ["s", "s", "t"]})
    frame = frame.assign(
        **{"true/a": [1.0, 0.0, 0.0], "true/b": [0.0, 1.0, 1.0], "prob/a": [0.7, 0.4, 0.1], "prob/b": [0.3, 0.6, 0.9]}
    )
    combined = combine(frame, LABELS, method="mean", task="multiclass")
    assert combined[["true/a", "true/b"]].isna().all(axis=1).tolist() == [True, False]
    assert combined["prob/a"].tolist() == pytest.approx([0.55, 0.1])
