"""The audit's numbers from their definitions, and two planted shortcuts in real X-rays of one class that it finds, and none without."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import cxr_ray
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.explanation import audit
from cxr_ray.explanation.audit import GRID, Places, Shares


def test_places_cover_the_image_and_shares_are_sums() -> None:
    places = Places.of(40, 24)
    cells = places.masks[2:]
    np.testing.assert_array_equal(cells.sum(axis=0), 1)
    assert len(cells) == GRID**2 and places.names[2] == "line 1, column 1" and places.names[-1] == "line 8, column 8"
    inside = places.masks.reshape(-1, 40, 24)
    assert inside[0, 0, :].all() and inside[0, :, 0].all() and not inside[0, 8:32, 6:18].any()
    assert inside[1, 0, 0] and inside[1, 39, 23] and not inside[1, 20, :].any() and not inside[1, :, 12].any()
    maps = np.random.default_rng(0).normal(size=(3, 40, 24))
    shares = places.shares(maps)
    for n, one in enumerate(maps):
        for p, mask in enumerate(inside):
            assert shares[n, p] == pytest.approx(np.abs(one)[mask == 1].sum() / np.abs(one).sum(), rel=1e-4)
    assert np.isnan(places.shares(np.zeros((1, 40, 24)))).all()


def hot(n: int, at: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    maps = rng.exponential(size=(n, 16, 16))
    maps[:, at[0] : at[0] + 2, at[1] : at[1] + 2] += 60
    return maps


@pytest.mark.parametrize("planted", [True, False])
def test_a_hot_cell_of_a_group_stands_out_and_noise_does_not(planted: bool) -> None:
    rng = np.random.default_rng(1)
    group = np.arange(40) < 20
    maps = rng.exponential(size=(40, 16, 16))
    if planted:
        maps[group] = hot(20, (6, 4), rng)
    shares = Shares(Places.of(16, 16))
    for half in (slice(0, 25), slice(25, 40)):
        shares.add(maps[half], rng.exponential(size=(40, 16, 16))[half], {"g": group[half]})
    rows = pd.DataFrame(audit.compare(shares, {"g": group}, np.arange(40) // 2, method="m", explained="e"))
    found = rows[rows["stands_out"] != ""]
    assert found["place"].tolist() == (["line 4, column 3"] if planted else [])
    of = rows.set_index("place").loc["line 4, column 3"]
    share = np.mean([np.abs(one)[6:8, 4:6].sum() / np.abs(one).sum() for one in maps[:20]])
    others = np.mean([np.abs(one)[6:8, 4:6].sum() / np.abs(one).sum() for one in maps[20:]])
    assert of["share"] == pytest.approx(share, rel=1e-4) and of["others"] == pytest.approx(others, rel=1e-4)
    assert of["difference_low"] < of["difference"] < of["difference_high"]
    mean = np.mean([np.abs(one) / np.abs(one).sum() for one in maps[:20]], axis=0)
    np.testing.assert_allclose(shares.sums["g"] / shares.counts["g"], mean)


def test_images_of_one_patient_are_not_independent() -> None:
    rng = np.random.default_rng(2)
    group = np.arange(60) < 30
    shares = Shares(Places.of(16, 16))
    maps = np.repeat(rng.exponential(size=(12, 16, 16)), 5, axis=0)
    shares.add(maps, maps, {"g": group})

    def width(patients: np.ndarray) -> float:
        rows = pd.DataFrame(audit.compare(shares, {"g": group}, patients, method="m", explained="e"))
        return float((rows["high"] - rows["low"]).mean())

    assert width(np.arange(60) // 5) > 1.5 * width(np.arange(60))


def test_groups_that_are_too_small_are_not_said_to_be_harmless() -> None:
    group, maps = np.arange(8) < audit.FEWEST - 1, np.random.default_rng(3).exponential(size=(8, 16, 16))
    shares = Shares(Places.of(16, 16))
    shares.add(maps, maps, {"g": group})
    rows = audit.compare(shares, {"g": group}, np.arange(8), method="m", explained="e")
    assert audit.Audit("x", pd.DataFrame(rows, columns=list(audit.COLUMNS)), {}).verdict.startswith("Nothing could be")


def test_the_share_outside_the_lungs_is_of_images_with_masks() -> None:
    rng = np.random.default_rng(3)
    maps, lungs = rng.normal(size=(12, 16, 16)), np.zeros((12, 16, 16), bool)
    lungs[:6, 4:12, 2:14] = True
    shares = Shares(Places.of(16, 16))
    shares.add(maps, maps, {}, lungs)
    names, _, trained, _ = shares.tables()
    assert names[-1] == "outside the lungs" and np.isnan(trained[6:, -1]).all()
    for n in range(6):
        expected = np.abs(maps[n])[~lungs[n]].sum() / np.abs(maps[n]).sum()
        assert trained[n, -1] == pytest.approx(expected, rel=1e-5)


def test_random_weights_are_the_same_values_in_another_order() -> None:
    network = cxr_ray.create_model("lenet", num_outputs=2, image_size=28).backbone
    other = audit.randomised(network)
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert sorted(a.flatten().tolist()) == sorted(b.flatten().tolist())
        assert a.numel() < 6 or a.tolist() != b.tolist()


# ---- planted in real X-rays


def plant(kind: str, images: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """A marker in a corner, or a bright curved line within a lung, in the marked images; each a little elsewhere."""
    rng, out = np.random.default_rng(1), images.copy()
    for n in np.flatnonzero(marked):
        if kind == "corner":
            y, x = rng.integers(3, 7, 2)
            out[n, y : y + 8, x : x + 2] = out[n, y + 6 : y + 8, x : x + 6] = 255
        elif kind == "lead":
            along = np.linspace(0, 1, 200)
            x0, x1, bend = rng.uniform(28, 36), rng.uniform(38, 46), rng.uniform(-6, 6)
            ys = (28 + 50 * along).astype(int)
            xs = (x0 + (x1 - x0) * along + bend * np.sin(np.pi * along)).astype(int)
            out[n, ys, xs] = out[n, ys, xs + 1] = 250
    return out


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["corner", "lead", "none"])
def test_planted_shortcuts_stand_out_and_their_absence_does_not(kind: str, shared_data: Path, tmp_path: Path) -> None:
    """68 real images of COVID-19, half of them marked at random; a small CNN learns the mark in 20 s."""
    from cxr_ray.imaging import decode
    from cxr_ray.workflows.audit import audit as audit_run

    files = sorted((shared_data / "covid").iterdir())
    images = np.stack([decode.decode(file.read_bytes(), (112, 112)).pixels for file in files])
    marked = np.zeros(len(images), bool)
    marked[np.random.default_rng(0).permutation(len(images))[: len(images) // 2]] = True
    table = pd.DataFrame({"Marked": marked.astype(np.float32)})
    info = DatasetInfo(labels=("Marked",), task="binary")
    store = store_writer.write(tmp_path / "shards", plant(kind, images, marked), table, info)
    settings: dict[str, Any] = {
        "data.shards": store, "data.split.test": 0, "data.split.val": 0.3, "model.name": "covid_cnn", "optim.lr": 1e-3,
        "train.epochs": 25, "train.batch_size": 8, "report.trackers": [], "output": tmp_path / "runs", "name": kind,
    }  # fmt: skip
    run = cxr_ray.train(settings, log=lambda line: None)
    found = audit_run(cxr_ray.load_predictor(run, gpu=False), split="train")
    cells = found.found[found.found["place"].str.startswith("line ")]
    if kind == "none":
        assert found.found.empty and found.verdict.startswith("No place stands out")
        return
    first = cells.iloc[0]
    expected = {"corner": {"line 1, column 1"}, "lead": {f"line {k}, column {c}" for k in range(3, 7) for c in (3, 4)}}
    assert first["place"] in expected[kind]
    assert first["difference_low"] > audit.MARGIN and first["ratio_low"] > audit.FACTOR
    assert set(cells["place"]) <= expected[kind] | {"line 1, column 2", "line 2, column 1", "line 2, column 2"}
