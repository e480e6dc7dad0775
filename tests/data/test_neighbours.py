"""The most similar images, against the cosine of every pair; and how they are listed."""

from pathlib import Path

import numpy as np
import pytest

from cxr_ray.data import features, neighbours
from cxr_ray.errors import UserError
from tests.fakes.store import FakeStore, fake_store


@pytest.fixture
def made(tmp_path: Path) -> tuple[features.FeatureStore, FakeStore]:
    store = fake_store(30)
    values = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    values[4] = 0  # without a direction
    values[7] = 3 * values[2]  # the same direction
    name = features.shard_name(0, 1)
    entry = features.write_shard(tmp_path / name, store.index["row"].to_numpy(), values)
    origin = features.Origin(store="s", model="lenet", weights="w", image_size=(28, 28), precision="fp32")
    features.write_manifest(tmp_path, origin, features=6, rows=30, files={name: entry})
    return features.open(tmp_path), store


@pytest.mark.parametrize("chunk", [7, 1000])
def test_the_largest_cosines_first(
    made: tuple[features.FeatureStore, FakeStore], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    found, store = made
    rows = store.index["row"].tolist()
    query = rows[2]
    table = neighbours.nearest(found, store, query, 5)
    cosines = []
    for row in rows:
        a, b = found.vectors([query])[0].astype(float), found.vectors([row])[0].astype(float)
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        cosines.append((-(a @ b / lengths if lengths else 0.0), row))
    wanted = [(row, -minus) for minus, row in sorted(cosines) if row != query][:5]
    assert table["row"].tolist() == [row for row, _ in wanted] and table["row"][0] == rows[7]
    np.testing.assert_allclose(table["similarity"], [cosine for _, cosine in wanted], atol=1e-5)
    by_row = store.index.set_index("row")
    for each in table.to_dict("records"):
        near = by_row.loc[each["row"]]
        assert each["same_patient"] == (near["patient"] == by_row["patient"].loc[query])
        assert each["positive"] == [k for k in store.labels if near[k] == 1]


def test_all_rows_but_itself(made: tuple[features.FeatureStore, FakeStore]) -> None:
    found, store = made
    store.index["patient"] = None
    table = neighbours.nearest(found, store, 3, 1000)
    assert sorted([*table["row"], 3]) == store.index["row"].tolist() and not table["same_patient"].any()


def test_bad_requests(made: tuple[features.FeatureStore, FakeStore]) -> None:
    with pytest.raises(UserError, match="no features of row 4"):
        neighbours.nearest(*made, 4, 5)
    with pytest.raises(UserError, match="at least 1"):
        neighbours.nearest(*made, 3, 0)
