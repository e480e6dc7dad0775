"""The sentence follows its rules."""

from typing import Any

import pandas as pd
import pytest

from cxr_ray.explanation.trust import Checks, trust

GOOD = Checks(randomised_correlation=0.1, randomised_ssim=0.2, deletion={"low": 0.05})


def table(**changes: Any) -> pd.DataFrame:
    row = {
        "method": "gradcam", "label": "all", "score": "hit", "value": 0.8, "prior": 0.3, "difference": 0.5, "difference_low": 0.4,
        "difference_high": 0.6, "cases": 90, "patients": 60,
    }  # fmt: skip
    return pd.DataFrame([row | changes])


@pytest.mark.parametrize(
    ("changes", "checks", "start", "reason"),
    [
        (
            {},
            GOOD,
            "The gradcam maps of all findings can be trusted",
            "hit rate 0.80, location prior 0.30, 90 annotations of 60 patients",
        ),
        ({"difference_low": 0.0}, GOOD, "Do not trust", "no better than the location prior"),
        ({}, Checks(0.1, 0.51, {"low": 0.1}), "Do not trust", r"hardly change .*0.51"),
        ({}, Checks(0.1, float("nan"), {"low": 0.1}), "Do not trust", "hardly change"),
        ({}, Checks(0.1, 0.2, {"low": -0.01}), "Do not trust", "no worse for the model than a random order"),
        ({}, Checks(0.1, 0.2, {"low": float("nan")}), "Do not trust", "random order"),
        ({}, None, "Trust the gradcam maps of all findings only in part", "not measured: randomised weights, deletion"),
        ({"patients": 29}, GOOD, "Too few annotations", "this is an anecdote"),
        ({"difference_low": float("nan")}, GOOD, "Too few annotations", "anecdote"),
    ],
)
def test_each_rule(changes: dict[str, Any], checks: Checks | None, start: str, reason: str) -> None:
    sentence = trust(table(**changes), "gradcam", checks)
    assert sentence.startswith(start) and sentence.endswith(".") and "\n" not in sentence
    assert pd.Series([sentence]).str.contains(reason).all()


def test_a_label_and_a_method_that_the_table_does_not_have() -> None:
    assert "maps of Mass" in trust(table(label="Mass"), "gradcam", GOOD, label="Mass")
    with pytest.raises(KeyError, match="no hit rate of saliency for all"):
        trust(table(), "saliency")
