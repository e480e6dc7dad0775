"""Counts of a store, against slow loops over its rows."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from cxr_ray.data import summary
from cxr_ray.labels import Filter

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
    table["split"] = rng.choice(np.array(["train", "val", None]), rows, p=[0.6, 0.3, 0.1])
    table["sex"] = rng.choice(np.array(["F", "M", None]), rows)
    return table


def test_size(index: pd.DataFrame) -> None:
    found = summary.size(index)
    counted = Counter(index["patient"])
    assert (found.rows, found.patients) == (len(index), len(counted))
    assert found.most_images_of_a_patient == max(counted.values())
    assert found.studies == len(set(zip(index["patient"], index["study"], strict=True)))


def test_size_is_none_for_unknown_patients(index: pd.DataFrame) -> None:
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


def test_co_occurrence(index: pd.DataFrame) -> None:
    found = summary.co_occurrence(index, LABELS)
    for a in LABELS:
        for b in LABELS:
            assert found.loc[a, b] == sum((row[a] == 1) and (row[b] == 1) for _, row in index.iterrows())


def test_official_parts(index: pd.DataFrame) -> None:
    found = summary.official_parts(index, LABELS, ["sex", "not a column"]).set_index("quantity")
    assert list(found.columns) == ["train", "val"]
    val = index[index["split"] == "val"]
    assert found.loc["rows", "val"] == len(val)
    assert found.loc["Mass %", "val"] == pytest.approx(100 * sum(v == 1 for v in val["Mass"]) / len(val))
    assert found.loc["sex = F %", "val"] == pytest.approx(100 * sum(v == "F" for v in val["sex"]) / len(val))
    assert summary.official_parts(index.assign(split=None), LABELS, []).empty


def test_of_a_feature_the_first_eight_values_are_compared_and_labels_only_once(index: pd.DataFrame) -> None:
    table = index.assign(site=np.array(list("abcdefghi"))[np.arange(len(index)) % 9])
    found = summary.official_parts(table, LABELS, ["site", "Mass"]).set_index("quantity")
    assert list(found.index) == [
        "rows", "patients", *(f"{label} %" for label in LABELS), *(f"site = {letter} %" for letter in "abcdefgh"),
    ]  # fmt: skip


def test_pixel_statistics_match_those_of_all_pixels_at_once() -> None:
    images = np.random.default_rng(2).integers(0, 256, (7, 5, 6))
    means, variances = images.mean((1, 2)), images.var((1, 2))
    found = summary.pixel_statistics(pd.DataFrame({"mean": means, "variance": variances}))
    assert found["mean"] == pytest.approx(images.mean() / 255)
    assert found["deviation"] == pytest.approx(images.std() / 255)
    assert (found["darkest"], found["brightest"]) == pytest.approx((means.min() / 255, means.max() / 255))


def test_original_sizes() -> None:
    table = pd.DataFrame({"width": [9, 5, 9, 7, 5, 9], "height": [3, 3, 3, 8, 4, 3]})
    found = summary.original_sizes(table)
    assert found[["width", "height", "rows"]].to_numpy().tolist() == [[9, 3, 3], [5, 3, 1], [5, 4, 1], [7, 8, 1]]
    assert found["percent"].sum() == pytest.approx(100)


def test_an_example_row_is_positive_for_its_label_and_few_others(index: pd.DataFrame) -> None:
    table = index.assign(row=np.arange(len(index)) * 2, Nothing=0.0)
    found = summary.example_rows(table, [*LABELS, "Nothing"])
    assert list(found) == LABELS and len(set(found.values())) == len(LABELS)
    by_row = table.set_index("row")
    for label, row in found.items():
        others = (by_row.loc[by_row[label] == 1, LABELS] == 1).sum(axis=1)
        assert by_row.loc[row, label] == 1 and (by_row.loc[row, LABELS] == 1).sum() == others.min()
    pair = pd.DataFrame({"row": [4, 6], "A": [1.0, 1.0], "B": [1.0, 1.0]})
    assert summary.example_rows(pair, ["A", "B"]) == {"A": 4, "B": 6}  # a row that is not yet an example
    both = pd.DataFrame({"row": [4], "A": [1.0], "B": [1.0]})
    assert summary.example_rows(both, ["A", "B"]) == {"A": 4, "B": 4}  # one image may be the example of two labels


def test_a_sample_has_different_patients_as_far_as_possible(index: pd.DataFrame) -> None:
    table = index.assign(row=np.arange(len(index)) * 2)
    patients = table.set_index("row")["patient"]
    few = summary.sample(table, 50)
    assert len(set(few)) == 50 and patients[few].is_unique and few == sorted(few) == summary.sample(table, 50)
    many = summary.sample(table, 300)
    assert len(set(many)) == 300 and patients[many].nunique() == patients.nunique()
    assert summary.sample(table, 10_000) == table["row"].tolist()
    assert len(summary.sample(table.assign(patient=None), 9)) == 9


def test_an_empty_index_can_be_summarized(index: pd.DataFrame) -> None:
    none = index.iloc[:0]
    assert summary.size(none).rows == 0
    assert summary.label_frequency(none, LABELS)["positive"].sum() == 0
    assert summary.label_vectors(none, LABELS).empty
    assert summary.sample(none.assign(row=0), 5) == []


def test_images_of_one_gray_are_named_by_row_with_the_filter_that_drops_them() -> None:
    index = pd.DataFrame({"row": np.arange(10) * 3, "variance": [1.0, 0.0, 2.0] + [5.0] * 7})
    message = summary.one_gray_warning(index)
    assert message is not None and message.startswith("1 of 10 image is one gray in all pixels (row 3): ")
    assert message.endswith('data.filters: ["variance > 0"]')
    index["variance"] = [0.0] * 7 + [1e-9] * 3
    rules = (Filter(name="frontal", query="view == 'PA'"),)
    message = summary.one_gray_warning(index, rules)
    assert (
        message is not None and "7 of 10 images are one gray in all pixels (rows 0, 3, 6, 9, 12 and 2 more)" in message
    )
    assert message.endswith("""data.filters: ["view == 'PA'", "variance > 0"]""")
    assert summary.one_gray_warning(index.tail(3)) is None
    assert summary.one_gray_warning(index.drop(columns="variance")) is None
