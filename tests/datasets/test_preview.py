"""The dry run: counts of a synthetic table against a loop over its rows, and of the published slice of CheXpert."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ray import datasets
from cxr_ray.data.info import DatasetInfo
from cxr_ray.datasets import Records, records_table
from cxr_ray.datasets.base import check_records
from cxr_ray.datasets.preview import dry_run
from cxr_ray.errors import UserError
from cxr_ray.labels import Filter

LABELS = ("A", "B", "C")


def make_records(rows: int = 60, filters: tuple[Filter, ...] = ()) -> Records:
    rng = np.random.default_rng(0)
    values = {name: rng.choice([1.0, 0.0, -1.0, np.nan], rows) for name in LABELS}
    columns = {
        "image": [f"{i:03d}.png" for i in range(rows)],
        "patient": [f"p{i // 2}" for i in range(rows)],
        "view": rng.choice(["PA", "AP", "lateral"], rows),
        "age": rng.integers(0, 90, rows).astype(float),
    }
    return Records(
        records_table(columns, values, rows=rows),
        DatasetInfo(labels=LABELS, task="multilabel", filters=filters, default_labels=("A", "C"), notes=("synthetic",)),
    )


FILTERS = (
    Filter(name="frontal", query="view != 'lateral'", about="frontal only"),
    Filter(name="adult", query="age >= 18"),
)


def test_counts_match_a_loop_over_the_rows(tmp_path: Path) -> None:
    records = make_records(filters=FILTERS)
    counts = dry_run(records, tmp_path, size=(32, 32))
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
    assert (counts.listed, counts.dropped, counts.kept) == (60, {"frontal": lateral, "adult": young}, kept)
    assert lateral and young and counts.patients == len(patients)
    assert dict(zip(counts.vectors["vector"], counts.vectors["rows"], strict=True)) == vectors
    assert counts.vectors["rows"].is_monotonic_decreasing and counts.vectors["percent"].sum() == pytest.approx(100)
    assert dict(zip(counts.labels["label"], counts.labels["positive"], strict=True)) == positive
    stated = counts.labels[["positive", "negative", "uncertain", "not_mentioned"]]
    assert (stated.sum(axis=1) == kept).all()
    assert counts.table["kept"].sum() == kept and (counts.table["dropped_by"] == "adult").sum() == young


def test_without_images_the_time_is_unknown_and_missing_files_are_counted(tmp_path: Path) -> None:
    counts = dry_run(make_records(), tmp_path / "nowhere", size=(32, 48))
    assert (counts.missing, counts.first_missing, counts.seconds, counts.ingested) == (60, "000.png", None, 60)
    assert counts.store_bytes == 60 * 32 * 48
    text = counts.to_text()
    assert (
        "missing files: 60, such as 000.png" in text and "estimated time: unknown" in text and "note: synthetic" in text
    )


def test_with_images_the_time_is_estimated_and_unusable_images_are_counted(tmp_path: Path) -> None:
    for i in range(0, 60, 2):
        Image.fromarray(np.full((40, 40), i, np.uint8)).save(tmp_path / f"{i:03d}.png")
    (tmp_path / "000.png").write_bytes(b"")
    counts = dry_run(make_records(), tmp_path, size=(32, 32), cores=2)
    assert counts.missing == 30 and counts.seconds is not None and counts.seconds > 0
    assert counts.unusable == {"empty file": 1} and counts.store_bytes == 30 * 32 * 32
    assert "on 2 cores" in counts.to_text() and "1 empty file" in counts.to_text()
    one_core = dry_run(make_records(), tmp_path, size=(32, 32), cores=1)
    assert one_core.seconds is not None and one_core.cores == 1


def test_where_that_leaves_nothing_is_refused_as_by_the_ingest(tmp_path: Path) -> None:
    records = make_records(filters=(Filter(name="--where", query="age > 500"), *FILTERS))
    with pytest.raises(UserError, match=r"^--where 'age > 500' leaves none of the \d+ records; widen it$"):
        dry_run(records, tmp_path, size=(32, 32))


def test_where_reduces_the_ingest_and_declared_filters_do_not(tmp_path: Path) -> None:
    where = Filter(name="--where", query="view == 'PA'")
    records = make_records(filters=(where, *FILTERS))
    counts = dry_run(records, tmp_path, size=(32, 32))
    assert counts.ingested == int((records.table["view"] == "PA").sum()) == counts.listed - counts.dropped["--where"]
    assert counts.dropped["frontal"] == 0 and counts.dropped["adult"] > 0


def test_save_writes_all_records_and_the_counts(tmp_path: Path) -> None:
    counts = dry_run(make_records(filters=FILTERS), tmp_path, size=(32, 32))
    counts.save(tmp_path / "report")
    table = pd.read_parquet(tmp_path / "report" / "records.parquet")
    assert len(table) == 60 and table["row"].tolist() == list(range(60))
    assert table["kept"].dtype == bool and table["kept"].sum() == counts.kept
    assert ((table["dropped_by"] == "") == table["kept"]).all()
    saved = json.loads((tmp_path / "report" / "cleaning.json").read_text())
    assert saved["kept"] == counts.kept and [f["dropped"] for f in saved["filters"]] == list(counts.dropped.values())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make"):
        counts.save(tmp_path / "file")


def test_a_filter_with_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="view"):
        dry_run(make_records(filters=(Filter(name="f", query="vieww == 'PA'"),)), tmp_path, size=(32, 32))


def test_filters_may_drop_all_rows(tmp_path: Path) -> None:
    counts = dry_run(make_records(filters=(Filter(name="none", query="age > 1000"),)), tmp_path, size=(32, 32))
    assert (counts.kept, counts.patients, len(counts.vectors)) == (0, None, 0)
    assert "rows kept: 0" in counts.to_text()


def test_counts_of_the_published_slice_of_chexpert(shared_data: Path, tmp_path: Path) -> None:
    shutil.copy(shared_data / "chexpert_train_slice.csv", tmp_path / "train.csv")
    counts = dry_run(datasets.load("chexpert", tmp_path), tmp_path, size=(224, 224))
    assert (counts.listed, counts.kept, len(counts.vectors), counts.patients) == (10_251, 5_191, 281, 2_513)
    assert dict(zip(counts.labels["label"], counts.labels["positive"], strict=True)) == {
        "Enlarged Cardiomediastinum": 250, "Cardiomegaly": 615, "Lung Opacity": 2178, "Lung Lesion": 229, "Edema": 1052,
        "Consolidation": 300, "Pneumonia": 154, "Atelectasis": 726, "Pneumothorax": 386, "Pleural Effusion": 1580,
        "Pleural Other": 100, "Fracture": 240,
    }  # fmt: skip
    assert sum(counts.dropped.values()) + counts.kept == counts.listed and min(counts.dropped.values()) > 0
    assert counts.missing == 10_251 and counts.seconds is None


def test_a_decoder_that_kills_its_process_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes" / "killer"))
    records = make_records(6)
    for row, name in enumerate(records.table["image"]):
        Image.fromarray(np.full((40, 50), row, np.uint8)).save(tmp_path / name)
    (tmp_path / "002.png").write_bytes(b"die of 6 ")
    (tmp_path / "004.png").write_bytes(b"not one")
    counts = dry_run(records, tmp_path, size=(32, 32))
    assert counts.unusable == {"the decoder crashed": 1, "not an image": 1} and counts.sampled == 6
    assert counts.seconds is not None and counts.missing == 0


def test_labels_with_the_names_of_columns_are_counted_and_saved(tmp_path: Path) -> None:
    """`sex` and `left` of the store, `kept` and `row` of records.parquet; --where says how to name either."""
    labels = {
        name: np.array([1, 0, 1, number == 1], np.float32) for number, name in enumerate(("sex", "left", "kept", "row"))
    }
    table = records_table({"image": list("abcd"), "sex": list("FFMM")}, labels, rows=4)
    info = DatasetInfo(labels=tuple(labels), task="multilabel", default_labels=tuple(labels))
    records = check_records(Records(table, info), tmp_path, "made")
    counts = dry_run(records, tmp_path, size=(32, 32))
    assert dict(zip(counts.labels["label"], counts.labels["positive"], strict=True)) == {
        "sex": 2, "left": 3, "kept": 2, "row": 2
    }  # fmt: skip
    counts.save(tmp_path)
    saved = pd.read_parquet(tmp_path / "records.parquet")
    assert saved["kept"].tolist() == [True] * 4 and saved["row"].tolist() == [0, 1, 2, 3]
    assert saved["sex"].tolist() == list("FFMM") and saved["label/sex"].tolist() == [1, 0, 1, 0]
    assert saved["label/kept"].tolist() == saved["label/row"].tolist() == [1, 0, 1, 0]
    where = info.model_copy(update={"filters": (Filter(name="--where", query="left == 1"),)})
    with pytest.raises(UserError, match="names left, which is a label and a column that the store will have"):
        dry_run(Records(table, where), tmp_path, size=(32, 32))
