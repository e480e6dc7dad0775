"""Ingest from and to an object store: the same bytes and errors as a local ingest, and a training on the result."""

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
from cxr_ray.on_ray import ingest as ingest_module
from cxr_ray.on_ray import train as on_ray
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from cxr_ray.on_ray.ingest_shards import image_paths, ingest_shard
from cxr_ray.storage import lease
from cxr_ray.storage.remote import RemotePath, to_path
from cxr_ray.workflows import evaluations
from tests.fakes.layouts import LAYOUTS, OPTIONS
from tests.fakes.stopped_ingest import stopped_after
from tests.on_ray.small_ingest import BAD, N, content, make_records, run

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def images(s3, good: tuple[Records, Path, Path]) -> str:
    return s3.upload(good[1], "ingest/images")


def remote(url: str) -> RemotePath:
    found = to_path(url)
    assert isinstance(found, RemotePath)
    return found


def remote_content(url: str) -> dict[str, bytes]:
    folder = remote(url)
    return {name: (folder / name).read_bytes() for name in folder.files()}


def settle_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)


def test_from_s3_to_s3_gives_the_bytes_of_a_local_ingest(s3, good, images, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_quickly(monkeypatch)
    out = s3.url("ingest/store")
    result = run(good[0], images, out)
    assert (result.rows, result.rejected, result.resumed) == (N, 0, 0) and result.path == to_path(out)
    assert remote_content(out) == content(good[2])
    assert verify(out) == 0
    second = run(good[0], images, out)
    assert second.already and second.rows == N
    with pytest.raises(UserError, match=r"other records or settings"):
        ingest(good[0], images, out, IngestSettings(source="made", size=(16, 16)))


def test_missing_images_and_paths_that_leave_the_root_are_refused(s3, good, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_quickly(monkeypatch)
    folder = good[1].parent / "bad"
    records = make_records(folder, bad=True)
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
def test_a_stopped_ingest_continues_to_the_same_bytes(s3, good, images, monkeypatch, stop_after: int) -> None:
    settle_quickly(monkeypatch)
    out = s3.url(f"ingest/stopped{stop_after}")
    with stopped_after(stop_after, good[0], monkeypatch):
        run(good[0], images, out)
    with pytest.raises(UserError, match=r"unfinished ingest"):
        stores.open(out)
    with pytest.raises(UserError, match=r"unfinished ingest with other size"):
        ingest(good[0], images, out, IngestSettings(source="made", size=(16, 16)))
    result = run(good[0], images, out)
    assert result.resumed == {0: 0, 2: 128, 3: N}[stop_after]
    assert remote_content(out) == content(good[2])


@pytest.mark.parametrize("remote", [True, False])
def test_a_second_ingest_into_one_folder_is_refused(s3, good, images, tmp_path, monkeypatch, remote: bool) -> None:
    settle_quickly(monkeypatch)
    out = s3.url("ingest/twice") if remote else str(tmp_path / "twice")
    entered, release = threading.Event(), threading.Event()
    paths = image_paths(good[0].table)

    def slow(todo, job, records):
        entered.set()
        assert release.wait(60)
        for shard in todo:
            yield ingest_shard(job, paths, shard)

    monkeypatch.setattr(ingest_module, "run_shards", slow)
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


def test_a_folder_with_other_content_is_refused(s3, good, images) -> None:
    out = s3.url("ingest/thesis")
    (to_path(out) / "thesis.txt").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"not empty \(it contains thesis.txt\)"):
        run(good[0], images, out)
    with pytest.raises(UserError, match=r"is a file"):
        run(good[0], images, str(to_path(out) / "thesis.txt"))
    assert list(remote(out).files()) == ["thesis.txt"]


def test_a_server_error_ends_the_ingest_and_rejects_no_image(s3, good, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no bucket nobucket|is denied|cannot reach"):
        run(good[0], "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http", tmp_path / "s", max_rejected=1.0)


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_source_reads_a_remote_root_like_a_local_one(s3, name: str, tmp_path: Path) -> None:
    root = LAYOUTS[name](tmp_path / "data")
    options = OPTIONS.get(name, {}) | ({"key": str(tmp_path / "key")} if name == "dicom_folder" else {})
    here, there = (
        datasets.load(name, root, options),
        datasets.load(name, url := s3.upload(root, f"sources/{name}"), options),
    )
    pd.testing.assert_frame_equal(here.table, there.table)
    assert here.paths.tolist() == there.paths.tolist() and here.info == there.info
    assert (here.boxes is None) == (there.boxes is None)
    if here.boxes is not None and there.boxes is not None:
        pd.testing.assert_frame_equal(here.boxes, there.boxes)
    previews = [dry_run(records, where, size=(32, 32)) for records, where in ((here, root), (there, url))]
    assert previews[0].summary() == previews[1].summary() and previews[0].unusable == previews[1].unusable


def test_a_missing_remote_root_is_named_in_the_error(s3) -> None:
    url = s3.url("sources/nowhere")
    with pytest.raises(UserError) as caught:
        datasets.load("chexpert", url)
    assert str(caught.value) == f"no folder at {url}; give the folder that holds the chexpert dataset"


@pytest.mark.long
def test_a_remote_store_can_be_trained_on_and_evaluated(s3, tmp_path: Path, monkeypatch, capsys) -> None:
    """From the phantom's images to a table of metrics, all by URL: once in this process and once on two workers."""
    from cxr_ray.datasets.phantom import generate

    settle_quickly(monkeypatch)
    root = s3.upload(generate.write(tmp_path / "phantom", patients=30, size=32), "all/phantom")
    records = datasets.load("phantom", root)
    out = s3.url("all/store")
    ingest(records, root, out, IngestSettings(source="phantom", size=(32, 32)))
    lines: list[str] = []

    def trained(name: str, **train: object):
        hyperparameters = {
            "output": str(tmp_path / "runs"), "name": name, "data": {"shards": out, "cache": str(tmp_path / "cache"), "split": {"val": 0.2, "test": 0.2}},
            "model": {"name": "lenet"}, "report": {"bootstrap": 20}, "train": {"epochs": 1, "batch_size": 16, **train},
        }  # fmt: skip
        return on_ray.train(cfg.validate(hyperparameters), log=lines.append)

    one, two = trained("one"), trained("two", workers=2)
    assert sum(line.startswith("copying") for line in lines) == 1  # once per node
    for trial in (one, two):
        assert trial.info["status"] == "finished" and trial.info["store"]["path"] == out == trial.config.data.shards
    evaluation = evaluations.evaluate(one.path, log=lambda line: None)
    assert evaluation.part == "test" and len(evaluation.table) > 2
    describe(out, out=tmp_path / "described")
    assert out in capsys.readouterr().out and (tmp_path / "described" / "describe.html").exists()
    assert json.loads((one.path / "run.json").read_text())["store"]["fingerprint"] == stores.open(out).fingerprint
    np.testing.assert_array_equal(one.plan["row"], two.plan["row"])
