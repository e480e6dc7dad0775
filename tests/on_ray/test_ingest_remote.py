"""Ingest from and to an object store: the bytes of a local one, its promises, and a training on what it wrote."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import config as cfg
from cxr_ray import datasets
from cxr_ray.cli.commands.describe import describe
from cxr_ray.cli.commands.verify import verify
from cxr_ray.data import store as stores
from cxr_ray.datasets import Records
from cxr_ray.datasets.preview import dry_run
from cxr_ray.errors import UserError
from cxr_ray.on_ray import ingest as module
from cxr_ray.on_ray import train as on_ray
from cxr_ray.storage import lease
from cxr_ray.storage.remote import place
from cxr_ray.workflows import evaluate
from tests.fakes.layouts import LAYOUTS, OPTIONS
from tests.fakes.stopped_ingest import stopped_after
from tests.on_ray.test_ingest import BAD, N, content, made, run

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> tuple[Records, Path, Path]:
    root = tmp_path_factory.mktemp("good")
    records = made(root / "images")
    run(records, root / "images", root / "store")
    return records, root / "images", root / "store"


@pytest.fixture(scope="module")
def images(s3, good: tuple[Records, Path, Path]) -> str:
    return s3.upload(good[1], "ingest/images")


def remote_content(url: str) -> dict[str, bytes]:
    folder = place(url)
    return {name: (folder / name).read_bytes() for name in folder.files()}


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)


def test_from_s3_to_s3_gives_the_bytes_of_a_local_ingest(s3, good, images, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    out = s3.url("ingest/store")
    made = run(good[0], images, out)
    assert (made.rows, made.rejected, made.resumed) == (N, 0, 0) and made.path == place(out)
    assert remote_content(out) == content(good[2])
    assert verify(out) == 0
    again = run(good[0], images, out)
    assert again.already and again.rows == N
    with pytest.raises(UserError, match=r"other records or settings"):
        module.ingest(good[0], images, out, source="made", size=(16, 16))


def test_what_is_missing_is_refused_and_what_leaves_the_root_too(s3, good, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    folder = good[1].parent / "bad"
    records = made(folder, bad=True)
    table = records.table.copy()
    table.loc[0, "image"], table.loc[1, "image"] = "../store/manifest.json", "/etc/passwd"
    result = run(
        replace(records, table=table), s3.upload(folder, "ingest/bad"), s3.url("ingest/refused"), max_rejected=0.1
    )
    assert result.rejected == len(BAD) + 2
    rejected = pd.read_parquet(stores.open(s3.url("ingest/refused")).path / "rejected.parquet")
    wanted = {i: why for i, (_, why) in BAD.items()} | {0: "outside the root", 1: "outside the root"}
    assert dict(zip(rejected["row"], rejected["reason"], strict=True)) == wanted


@pytest.mark.parametrize("stop_after", [0, 2, 3])
def test_a_killed_ingest_goes_on_to_the_same_bytes(s3, good, images, monkeypatch, stop_after: int) -> None:
    quick(monkeypatch)
    out = s3.url(f"ingest/stopped{stop_after}")
    with stopped_after(stop_after, good[0], monkeypatch):
        run(good[0], images, out)
    with pytest.raises(UserError, match=r"unfinished ingest"):
        stores.open(out)
    with pytest.raises(UserError, match=r"unfinished ingest with other size"):
        module.ingest(good[0], images, out, source="made", size=(16, 16))
    result = run(good[0], images, out)
    assert result.resumed == {0: 0, 2: 128, 3: N}[stop_after]
    assert remote_content(out) == content(good[2])


@pytest.mark.parametrize("remote", [True, False])
def test_a_second_ingest_into_one_folder_is_refused(s3, good, images, tmp_path, monkeypatch, remote: bool) -> None:
    quick(monkeypatch)
    out = s3.url("ingest/twice") if remote else str(tmp_path / "twice")
    entered, release = threading.Event(), threading.Event()
    table = [module.put_records(good[0].table)]

    def slow(todo, job, records):
        entered.set()
        assert release.wait(60)
        for n, a, b in todo:
            yield module._shard(job, table, {"number": n, "start": a, "stop": b})

    monkeypatch.setattr(module, "_run", slow)
    first = threading.Thread(target=run, args=(good[0], images, out))
    first.start()
    try:
        assert entered.wait(60)
        with pytest.raises(
            UserError, match=r"is being written by another ingest, by process \d+ of this machine; wait for it"
        ):
            run(good[0], images, out)
    finally:
        release.set()
        first.join()
    assert (remote_content(out) if remote else content(Path(out))) == content(good[2])


def test_a_foreign_folder_is_refused(s3, good, images) -> None:
    out = s3.url("ingest/thesis")
    (place(out) / "thesis.txt").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"not empty \(it holds thesis.txt\)"):
        run(good[0], images, out)
    with pytest.raises(UserError, match=r"is a file"):
        run(good[0], images, str(place(out) / "thesis.txt"))
    assert list(place(out).files()) == ["thesis.txt"]


def test_a_server_that_refuses_ends_the_ingest_and_rejects_no_image(s3, good, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no bucket nobucket|is refused|cannot reach"):
        run(good[0], "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http", tmp_path / "s", max_rejected=1.0)


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_source_reads_a_remote_root_as_a_local_one(s3, name: str, tmp_path: Path) -> None:
    root = LAYOUTS[name](tmp_path / "data")
    options = OPTIONS.get(name, {}) | ({"key": str(tmp_path / "key")} if name == "dicom_folder" else {})
    here, there = (
        datasets.load(name, root, options),
        datasets.load(name, url := s3.upload(root, f"sources/{name}"), options),
    )
    pd.testing.assert_frame_equal(here.table, there.table)
    assert here.places.tolist() == there.places.tolist() and here.notes == there.notes
    if here.boxes is not None:
        pd.testing.assert_frame_equal(here.boxes, there.boxes)
    told = [dry_run(records, where, size=(32, 32)) for records, where in ((here, root), (there, url))]
    assert told[0].summary() == told[1].summary() and told[0].unusable == told[1].unusable


def test_a_missing_remote_root_is_named(s3) -> None:
    url = s3.url("sources/nowhere")
    with pytest.raises(UserError) as said:
        datasets.load("chexpert", url)
    assert str(said.value) == f"no folder at {url}; give the folder that holds the chexpert dataset"


@pytest.mark.long
def test_what_was_ingested_to_s3_trains_and_is_judged(s3, tmp_path: Path, monkeypatch, capsys) -> None:
    """The whole road by URLs, from the phantom's pictures to a table of metrics, once in process and once on two workers."""
    from cxr_ray.datasets.phantom import generate

    quick(monkeypatch)
    root = s3.upload(generate.write(tmp_path / "phantom", patients=30, size=32), "road/phantom")
    records = datasets.load("phantom", root)
    out = s3.url("road/store")
    module.ingest(records, root, out, source="phantom", size=(32, 32))
    said: list[str] = []

    def trained(name: str, **train: object):
        hyperparameters = {
            "output": str(tmp_path / "runs"), "name": name, "data": {"shards": out, "cache": str(tmp_path / "cache"), "split": {"val": 0.2, "test": 0.2}},
            "model": {"name": "lenet"}, "report": {"bootstrap": 20}, "train": {"epochs": 1, "batch_size": 16, **train},
        }  # fmt: skip
        return on_ray.train(cfg.validate(hyperparameters), log=said.append)

    one, two = trained("one"), trained("two", workers=2)
    assert sum(line.startswith("copying") for line in said) == 1  # once a node, whoever asks
    for trial in (one, two):
        assert trial.info["status"] == "finished" and trial.info["store"]["path"] == out == trial.config.data.shards
    judged = evaluate.evaluate(one.path, log=lambda line: None)
    assert judged.part == "test" and len(judged.table) > 2
    describe(out, out=tmp_path / "described")
    assert out in capsys.readouterr().out and (tmp_path / "described" / "describe.html").exists()
    assert json.loads((one.path / "run.json").read_text())["store"]["fingerprint"] == stores.open(out).fingerprint
    np.testing.assert_array_equal(one.plan["row"], two.plan["row"])
