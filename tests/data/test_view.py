"""A store as a run selects it, and an image by its name."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray import config as cfg
from cxr_ray.data import plan as plans
from cxr_ray.data import view
from cxr_ray.data.summary import findings_per_image
from cxr_ray.errors import UserError
from cxr_ray.labels import Filter
from tests.fakes.store import FakeStore, fake_store


def store() -> FakeStore:
    fake = fake_store(90, uncertain=0.2, unknown=0.2)
    fake.declare(
        filters=(Filter(name="PA", query="view == 'PA'"),),
        groups={"pair": ("Edema", "Mass"), "all three": fake.labels},
        default_labels=("Edema", "Effusion"),
    )
    return fake


@pytest.mark.parametrize(
    "data",
    [
        cfg.Data(),
        cfg.Data(labels=["pair"]),
        cfg.Data(filters="none"),
        cfg.Data(filters=["sex == 'F'"], labels=["Effusion"]),
        cfg.Data(derive={"Any": {"any": ["Edema", "Mass"]}}, labels=["Any", "Mass"]),
    ],
)
def test_a_view_has_the_rows_and_labels_of_a_plan(data: cfg.Data) -> None:
    whole = store()
    plan, seen = plans.build(whole, data, seed=0), view.selected(whole, data)
    assert sorted(seen.index["row"]) == sorted(row for rows in plan.rows.values() for row in rows.tolist())
    assert seen.labels == plan.labels and seen.task == plan.task
    again = view.selected(seen, cfg.Data())  # it selects itself
    assert again.index.equals(seen.index) and again.labels == seen.labels
    assert len(whole.index) == 90 and whole.labels == ("Edema", "Mass", "Effusion")
    row = int(seen.index["row"].iloc[-1])
    assert np.array_equal(seen.images([row]), whole.images([row]))


def test_findings_are_counted_over_the_chosen_labels_with_a_bar_for_0() -> None:
    whole = store()
    seen = view.selected(whole, cfg.Data(labels=["pair"], filters=["row > 60"]))
    counted = dict.fromkeys(range(3), 0)
    for _, record in whole.index[whole.index["row"] > 60].iterrows():
        counted[int(record["Edema"] == 1) + int(record["Mass"] == 1)] += 1
    table = findings_per_image(seen.index, seen.labels)
    assert dict(zip(table["findings"], table["rows"], strict=True)) == counted and counted[2]
    one = whole.index[["Edema", "Mass"]].assign(Edema=1.0, Mass=1.0)
    assert findings_per_image(one, ["Edema", "Mass"])["rows"].tolist() == [0, 0, 90]  # no gap, and 0 is there


def test_no_row_left_is_an_error() -> None:
    with pytest.raises(UserError, match="no row of 90 is left"):
        view.selected(store(), cfg.Data(filters=["view == 'LL'"]))


INDEX = pd.DataFrame(
    {"row": [3, 6, 9, 12], "image": ["a/x.png", "b/x.png", "b/view1.jpg", "b/6.jpg"]}  # one file is called as a row
)


@pytest.mark.parametrize(
    ("name", "row"),
    [("9", 9), ("b/x.png", 6), ("view1.jpg", 9), ("view1", 9), ("6", 6), ("6.jpg", 12), ("b/6.jpg", 12)],
)
def test_an_image_is_found_by_every_name(name: str, row: int) -> None:
    assert view.find_row(INDEX, name) == row


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.png", r"2 images are called 'x.png': rows 3 \(a/x.png\), 6 \(b/x.png\); give the row number"),
        ("4", "no row 4: .* row numbers are 3 to 12"),
        ("veiw1.jpg", "did you mean 'view1.jpg'"),
        ("zzzzzz", "its path in the dataset, or its row number"),
    ],
)
def test_an_unknown_or_shared_name_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        view.find_row(INDEX, name)


@given(st.lists(st.text("ab/.1", min_size=1, max_size=5), min_size=1, max_size=6, unique=True))
def test_every_path_finds_its_own_row(paths: list[str]) -> None:
    index = pd.DataFrame({"row": np.arange(len(paths)) + 100, "image": paths})
    for row, path in zip(index["row"], paths, strict=True):
        assert view.find_row(index, path) == row
