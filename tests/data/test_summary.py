"""Counts of a store, against slow loops over its rows."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from cxr_ray.cli.commands.describe import SHADES, drawing
from cxr_ray.data import summary

LABELS = ["Edema", "Mass", "Nodule"]


@pytest.fixture(scope="module")
def index() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    rows = 400
    table = pd.DataFrame(
        {label: rng.choice([1.0, 0.0, -1.0, np.nan], rows, p=[0.2, 0.4, 0.1, 0.3]) for label in LABELS}
    )
    table["patient"] = [f"p{n}" for n in rng.integers(0, 90, rows)]
    table["study"] = [f"s{n}" for n in rng.integers(0, 3, rows)]
    table["split"] = rng.choice(["train", "val", None], rows, p=[0.6, 0.3, 0.1])
    table["sex"] = rng.choice(["F", "M", None], rows)
    return table


def test_size(index: pd.DataFrame) -> None:
    found = summary.size(index)
    counted = Counter(index["patient"])
    assert (found.rows, found.patients) == (len(index), len(counted))
    assert found.most_images_of_a_patient == max(counted.values())
    assert found.studies == len(set(zip(index["patient"], index["study"], strict=True)))


def test_size_says_nothing_about_patients_that_are_not_told(index: pd.DataFrame) -> None:
    found = summary.size(index.assign(patient=None, study=None))
    assert (found.patients, found.studies, found.most_images_of_a_patient) == (None, None, None)


def test_label_frequency(index: pd.DataFrame) -> None:
    found = summary.label_frequency(index, LABELS).set_index("label")
    for label in LABELS:
        values = list(index[label])
        assert found.loc[label, "positive"] == sum(v == 1 for v in values)
        assert found.loc[label, "uncertain"] == sum(v == -1 for v in values)
        assert found.loc[label, "negative"] == sum(v == 0 for v in values)
        assert found.loc[label, "blank"] == sum(v != v for v in values)
        assert found.loc[label, "percent"] == pytest.approx(100 * sum(v == 1 for v in values) / len(values))
    assert (found[["positive", "uncertain", "negative", "blank"]].sum(axis=1) == len(index)).all()


def test_label_vectors_and_findings(index: pd.DataFrame) -> None:
    counted = Counter(tuple(label for label in LABELS if row[label] == 1) for _, row in index.iterrows())
    found = summary.label_vectors(index, LABELS)
    assert dict(zip(found["labels"], found["rows"], strict=True)) == counted
    assert list(found["rows"]) == sorted(found["rows"], reverse=True)
    assert found["percent"].sum() == pytest.approx(100)
    findings = summary.findings_per_image(index, LABELS)
    by_length = Counter(n for vector, rows in counted.items() for n in [len(vector)] * rows)
    assert dict(zip(findings["findings"], findings["rows"], strict=True)) == by_length


def test_together(index: pd.DataFrame) -> None:
    found = summary.together(index, LABELS)
    for a in LABELS:
        for b in LABELS:
            assert found.loc[a, b] == sum((row[a] == 1) and (row[b] == 1) for _, row in index.iterrows())


def test_splits(index: pd.DataFrame) -> None:
    found = summary.splits(index, LABELS, ["sex", "not a column"]).set_index("quantity")
    assert list(found.columns) == ["train", "val"]
    val = index[index["split"] == "val"]
    assert found.loc["rows", "val"] == len(val)
    assert found.loc["Mass %", "val"] == pytest.approx(100 * sum(v == 1 for v in val["Mass"]) / len(val))
    assert found.loc["sex = F %", "val"] == pytest.approx(100 * sum(v == "F" for v in val["sex"]) / len(val))
    assert summary.splits(index.assign(split=None), LABELS, []).empty


def test_pixel_statistics_are_those_of_all_pixels_at_once() -> None:
    pictures = np.random.default_rng(2).integers(0, 256, (7, 5, 6))
    means, variances = pictures.mean((1, 2)), pictures.var((1, 2))
    found = summary.pixel_statistics(pd.DataFrame({"mean": means, "variance": variances}))
    assert found["mean"] == pytest.approx(pictures.mean() / 255)
    assert found["deviation"] == pytest.approx(pictures.std() / 255)
    assert (found["darkest"], found["brightest"]) == pytest.approx((means.min() / 255, means.max() / 255))


def test_original_sizes() -> None:
    table = pd.DataFrame({"width": [9, 5, 9, 7, 5, 9], "height": [3, 3, 3, 8, 4, 3]})
    found = summary.original_sizes(table)
    assert found[["width", "height", "rows"]].to_numpy().tolist() == [[9, 3, 3], [5, 3, 1], [5, 4, 1], [7, 8, 1]]
    assert found["percent"].sum() == pytest.approx(100)


def test_one_a_label_is_positive_for_it_and_for_few_others(index: pd.DataFrame) -> None:
    table = index.assign(row=np.arange(len(index)) * 2, Nothing=0.0)
    found = summary.one_a_label(table, [*LABELS, "Nothing"])
    assert list(found) == LABELS and len(set(found.values())) == len(LABELS)
    by_row = table.set_index("row")
    for label, row in found.items():
        others = (by_row.loc[by_row[label] == 1, LABELS] == 1).sum(axis=1)
        assert by_row.loc[row, label] == 1 and (by_row.loc[row, LABELS] == 1).sum() == others.min()
    both = pd.DataFrame({"row": [4], "A": [1.0], "B": [1.0]})
    assert summary.one_a_label(both, ["A", "B"]) == {"A": 4, "B": 4}  # one picture may have to stand for two


def test_a_sample_is_of_different_patients_as_far_as_it_can(index: pd.DataFrame) -> None:
    table = index.assign(row=np.arange(len(index)) * 2)
    patients = table.set_index("row")["patient"]
    few = summary.sample(table, 50)
    assert len(set(few)) == 50 and patients[few].is_unique and few == sorted(few) == summary.sample(table, 50)
    many = summary.sample(table, 300)
    assert len(set(many)) == 300 and patients[many].nunique() == patients.nunique()
    assert summary.sample(table, 10_000) == table["row"].tolist()
    assert len(summary.sample(table.assign(patient=None), 9)) == 9


def test_an_empty_index_is_counted_too(index: pd.DataFrame) -> None:
    none = index.iloc[:0]
    assert summary.size(none).rows == 0
    assert summary.label_frequency(none, LABELS)["positive"].sum() == 0
    assert summary.label_vectors(none, LABELS).empty
    assert summary.sample(none.assign(row=0), 5) == []


def test_drawing_goes_from_dark_to_bright() -> None:
    ramp = np.tile(np.linspace(0, 255, 200, dtype=np.uint8), (100, 1))
    lines = drawing(ramp, columns=40).split("\n")
    assert len(lines) == 10  # 100 x 200 px in 40 columns of characters twice as high as wide
    assert len(set(lines)) == 1
    levels = [SHADES.index(c) for c in lines[0]]
    assert levels == sorted(levels)
    assert levels[-1] == len(SHADES) - 1
    assert len(drawing(np.full((3, 2), 255, np.uint8), columns=8).split("\n")[0]) == 8  # smaller than its drawing
