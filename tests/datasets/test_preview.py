"""The dry run: the counts of FACTS on real rows, and of a made table against a slow count."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ray import datasets
from cxr_ray.datasets import Records, records_table
from cxr_ray.datasets.preview import dry_run
from cxr_ray.errors import UserError
from cxr_ray.labels import Filter

LABELS = ("A", "B", "C")


def made(rows: int = 60, filters: tuple[Filter, ...] = ()) -> Records:
    rng = np.random.default_rng(0)
    values = {name: rng.choice([1.0, 0.0, -1.0, np.nan], rows) for name in LABELS}
    columns = {
        "image": [f"{i:03d}.png" for i in range(rows)],
        "patient": [f"p{i // 2}" for i in range(rows)],
        "view": rng.choice(["PA", "AP", "lateral"], rows),
        "age": rng.integers(0, 90, rows).astype(float),
    }
    return Records(
        records_table(columns, values, rows=rows), LABELS, "multilabel", {}, filters, ("A", "C"), (), ("made up",), None
    )


FILTERS = (
    Filter(name="frontal", query="view != 'lateral'", about="frontal only"),
    Filter(name="adult", query="age >= 18"),
)


def test_counts_are_those_of_a_slow_count(tmp_path: Path) -> None:
    records = made(filters=FILTERS)
    got = dry_run(records, tmp_path, size=(32, 32))
    lateral = young = kept = 0
    patients, vectors, positive = set(), Counter[str](), Counter[str]()
    for _, row in records.table.iterrows():
        if row["view"] == "lateral":
            lateral += 1
        elif row["age"] < 18:
            young += 1
        else:
            kept += 1
            patients.add(row["patient"])
            on = [label for label in ("A", "C") if row[label] == 1]
            positive.update(on)
            vectors[" + ".join(on) or "none"] += 1
    assert (got.listed, got.dropped, got.kept) == (60, {"frontal": lateral, "adult": young}, kept)
    assert lateral and young and got.patients == len(patients)
    assert dict(zip(got.vectors["vector"], got.vectors["rows"], strict=True)) == vectors
    assert got.vectors["rows"].is_monotonic_decreasing and got.vectors["percent"].sum() == pytest.approx(100)
    assert dict(zip(got.labels["label"], got.labels["positive"], strict=True)) == positive
    for row in got.labels.to_dict("records"):
        assert row["positive"] + row["negative"] + row["uncertain"] + row["not_mentioned"] == kept
    assert got.table["kept"].sum() == kept and (got.table["dropped_by"] == "adult").sum() == young


def test_without_images_the_time_is_unknown_and_the_missing_are_counted(tmp_path: Path) -> None:
    got = dry_run(made(), tmp_path / "nowhere", size=(32, 48))
    assert (got.missing, got.first_missing, got.seconds, got.ingested) == (60, "000.png", None, 60)
    assert got.store_bytes == 60 * 32 * 48
    text = got.to_text()
    assert (
        "missing files: 60, such as 000.png" in text and "time to expect: unknown" in text and "note: made up" in text
    )


def test_with_images_the_time_is_told_and_the_unusable_of_the_sample(tmp_path: Path) -> None:
    for i in range(0, 60, 2):
        Image.fromarray(np.full((40, 40), i, np.uint8)).save(tmp_path / f"{i:03d}.png")
    (tmp_path / "000.png").write_bytes(b"")
    got = dry_run(made(), tmp_path, size=(32, 32), cores=2)
    assert got.missing == 30 and got.seconds is not None and got.seconds > 0
    assert got.unusable == {"empty file": 1} and got.store_bytes == 30 * 32 * 32
    assert "on 2 cores" in got.to_text() and "1 empty file" in got.to_text()
    twice = dry_run(made(), tmp_path, size=(32, 32), cores=1)
    assert twice.seconds is not None and twice.cores == 1


def test_where_narrows_what_is_ingested_and_the_declared_filters_do_not(tmp_path: Path) -> None:
    where = Filter(name="--where", query="view == 'PA'")
    records = made(filters=(where, *FILTERS))
    got = dry_run(records, tmp_path, size=(32, 32))
    assert got.ingested == int((records.table["view"] == "PA").sum()) == got.listed - got.dropped["--where"]
    assert got.dropped["frontal"] == 0 and got.dropped["adult"] > 0


def test_save_writes_every_record_and_the_counts(tmp_path: Path) -> None:
    got = dry_run(made(filters=FILTERS), tmp_path, size=(32, 32))
    got.save(tmp_path / "report")
    table = pd.read_parquet(tmp_path / "report" / "records.parquet")
    assert len(table) == 60 and table["row"].tolist() == list(range(60))
    assert table["kept"].dtype == bool and table["kept"].sum() == got.kept
    assert ((table["dropped_by"] == "") == table["kept"]).all()
    counts = json.loads((tmp_path / "report" / "cleaning.json").read_text())
    assert counts["kept"] == got.kept and [f["dropped"] for f in counts["filters"]] == list(got.dropped.values())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make"):
        got.save(tmp_path / "file")


def test_a_filter_of_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="view"):
        dry_run(made(filters=(Filter(name="f", query="vieww == 'PA'"),)), tmp_path, size=(32, 32))


def test_nothing_kept_is_told_without_a_crash(tmp_path: Path) -> None:
    got = dry_run(made(filters=(Filter(name="none", query="age > 1000"),)), tmp_path, size=(32, 32))
    assert (got.kept, got.patients, len(got.vectors)) == (0, None, 0)
    assert "rows kept: 0" in got.to_text()


def test_chexpert_slice_gives_the_frameworks_table(shared_data: Path, tmp_path: Path) -> None:
    shutil.copy(shared_data / "chexpert_train_slice.csv", tmp_path / "train.csv")
    got = dry_run(datasets.load("chexpert", tmp_path), tmp_path, size=(224, 224))
    assert (got.listed, got.kept, len(got.vectors), got.patients) == (10_251, 5_191, 281, 2_513)
    assert dict(zip(got.labels["label"], got.labels["positive"], strict=True)) == {
        "Enlarged Cardiomediastinum": 250, "Cardiomegaly": 615, "Lung Opacity": 2178, "Lung Lesion": 229, "Edema": 1052,
        "Consolidation": 300, "Pneumonia": 154, "Atelectasis": 726, "Pneumothorax": 386, "Pleural Effusion": 1580,
        "Pleural Other": 100, "Fracture": 240,
    }  # fmt: skip
    assert sum(got.dropped.values()) + got.kept == got.listed and min(got.dropped.values()) > 0
    assert got.missing == 10_251 and got.seconds is None
