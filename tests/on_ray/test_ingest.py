"""The ingest with Ray Data: every image is stored or refused with a reason, and interruptions do not change the bytes."""

import importlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from cxr_ray.data import store as stores
from cxr_ray.data import store_format
from cxr_ray.data.info import DatasetInfo
from cxr_ray.data.store_format import MAX_SHARDS, ImageFormat, shard_name
from cxr_ray.datasets import Records, records_table
from cxr_ray.errors import UserError
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.files import read
from cxr_ray.labels import Filter, label_values
from cxr_ray.on_ray import ingest as ingest_module
from cxr_ray.on_ray import ingest_shards
from cxr_ray.on_ray.ingest import (
    IngestResult,
    IngestSettings,
    ProgressCallback,
    ingest,
    rows_per_shard,
)
from cxr_ray.on_ray.ingest_shards import ShardJob, ShardRange, image_paths, ingest_shard, run_shards
from tests.fakes.stopped_ingest import stopped_after

pytestmark = pytest.mark.usefixtures("ray_local")

KILLER = Path(__file__).parents[1] / "fakes" / "killer"
SIZE = (24, 32)
N = 150  # three shards: 64, 64, 22


def save(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def gray(seed: int, height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


BAD: dict[int, tuple[Callable[[], bytes | None], str]] = {
    3: (lambda: save(gray(3))[:-400], "truncated"),
    70: (lambda: b"", "empty file"),
    71: (lambda: b"hello", "not an image"),
    72: (lambda: None, "file missing"),
    140: (
        lambda: save(Image.fromarray(gray(0)), "GIF", save_all=True, append_images=[Image.fromarray(gray(1))]),
        "several frames",
    ),
}
ODD: dict[int, Callable[[], bytes]] = {  # usable, each by its own rule
    10: lambda: save(np.linspace(2000, 6000, 2000).reshape(40, 50).astype(np.uint16)),
    11: lambda: save(np.dstack([gray(k) for k in range(4)])),
    12: lambda: save(Image.fromarray(gray(12)).convert("RGB").quantize(32)),
    13: lambda: save(gray(13), "JPEG"),
}


def make_records(root: Path, *, bad: bool = False) -> Records:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(N):
        data: bytes | None = save(gray(i, 30 + i % 7, 50))
        if i in ODD:
            data = ODD[i]()
        if bad and i in BAD:
            data = BAD[i][0]()
        if data is not None:
            (root / f"{i:03d}.png").write_bytes(data)
    rng = np.random.default_rng(9)
    columns = {
        "image": [f"{i:03d}.png" for i in range(N)],
        "source_row": np.arange(N) + 1000,
        "patient": [f"p{i // 2}" for i in range(N)],
        "view": ["PA" if i % 3 else None for i in range(N)],
        "age": np.where(np.arange(N) % 5 == 0, np.nan, np.arange(N) % 90),
        "study_number": np.arange(N) % 4,
    }
    values = {name: rng.choice([1.0, 0.0, -1.0, np.nan], N) for name in ("A", "B")}
    boxes = pd.DataFrame({"row": [3, 5], "label": ["A", "B"], "x": [1.0, 2.0], "y": 1.0, "w": 9.0, "h": 8.0})
    return Records(
        records_table(columns, values, rows=N),
        DatasetInfo(
            labels=("A", "B"),
            task="multilabel",
            groups={"both": ("A", "B")},
            filters=(Filter(name="PA", query="view == 'PA'"),),
            default_labels=("A",),
            features=("view",),
            notes=("made up",),
        ),
        boxes=boxes,
    )


def run(
    records: Records, root: Path | str, out: Path | str, *, progress: ProgressCallback | None = None, **options: object
) -> IngestResult:
    """Ingest at 24 x 32 pixels; `options` are further settings."""
    settings = IngestSettings(**{"source": "made", "size": SIZE, **options})  # type: ignore[arg-type]
    return ingest(records, root, out, settings, progress=progress)


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below `folder`."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> tuple[Records, Path, Path]:
    root = tmp_path_factory.mktemp("good")
    records = make_records(root / "images")
    run(records, root / "images", root / "store")
    return records, root / "images", root / "store"


# ---- what is written


def test_rows_per_shard_keeps_its_limits() -> None:
    images = ImageFormat((224, 224))
    assert rows_per_shard(8000, images, 32) == 500
    assert rows_per_shard(150, images, 32) == 64
    assert rows_per_shard(1_000_000, images, 32) == 32 * 2**20 // 224**2
    assert rows_per_shard(1_000_000, ImageFormat((224, 224), depth=16), 32) == 32 * 2**20 // 224**2 // 2
    assert rows_per_shard(50_000, ImageFormat((4096, 4096)), 1) == 1


@pytest.mark.parametrize("size", [(512, 512), (313, 727)])
@pytest.mark.parametrize("count", [10_000_000, 25_000_001])
def test_more_shards_than_a_process_can_map_are_refused_with_a_size_that_works(
    size: tuple[int, int], count: int
) -> None:
    images = ImageFormat(size, depth=16)
    with pytest.raises(UserError, match="give --shard-mib") as refused:
        rows_per_shard(count, images, 32)
    needed = int(str(refused.value).split()[-1])
    shards = -(-count // rows_per_shard(count, images, needed))
    assert shards <= MAX_SHARDS
    names = [shard_name(number, shards) for number in range(shards)]
    assert names == sorted(names)  # a store numbers its shards by the order of their names


def test_the_store_has_each_image_as_decode_returns_it(good: tuple[Records, Path, Path]) -> None:
    records, root, out = good
    store = stores.open(out, verify="full")
    assert len(store) == N and store.manifest.source == "made" and store.size == SIZE
    assert sorted(p.name for p in out.iterdir()) == [
        "boxes.parquet", *[f"images-0000{i}-of-00003.arrow" for i in range(3)], "index.parquet", "manifest.json", "rejected.parquet"
    ]  # fmt: skip
    images = store.images(np.arange(N))
    for i in range(N):
        image = decode(read(root, f"{i:03d}.png"), SIZE)
        np.testing.assert_array_equal(images[i], image.pixels)
        line = store.index.iloc[i]
        assert (line["height"], line["width"], line["row"], line["source_row"]) == (
            image.height,
            image.width,
            i,
            1000 + i,
        )
        assert tuple(line[["scale_y", "scale_x", "top", "left"]]) == image.transform
    window = store.index["window_low"]
    assert window.notna().sum() == 1 and window[10] == 2000
    for name in ("patient", "view", "age", "study_number", "A", "B"):
        wanted = records.table[name].reset_index(drop=True)
        pd.testing.assert_series_equal(
            store.index[name], wanted, check_dtype=name in ("A", "B"), check_index_type=False, check_names=False
        )
    assert store.info == records.info
    boxes = store.boxes()
    assert boxes is not None and boxes["row"].tolist() == [3, 5]


def test_a_depth_of_16_keeps_the_gray_levels_and_is_another_store(
    good: tuple[Records, Path, Path], tmp_path: Path
) -> None:
    run(good[0], good[1], tmp_path / "s", depth=16)
    store = stores.open(tmp_path / "s", verify="full")
    assert store.depth == 16 and store.index["window_high"][10] == 6000
    for i in (0, 10, 11, 13):
        pixels = decode(read(good[1], f"{i:03d}.png"), SIZE, depth=16).pixels
        np.testing.assert_array_equal(store.images([i])[0], pixels.astype(np.float32) / np.float32(257))
    with pytest.raises(UserError, match="other records or settings"):
        run(good[0], good[1], tmp_path / "s")


def test_exact_jpegs_are_recorded_and_make_another_store(good: tuple[Records, Path, Path], tmp_path: Path) -> None:
    """Only where they are asked for: a store of default settings keeps its bytes, and an ingest continues only as it began."""
    large = tmp_path / "large"
    large.mkdir()
    names = good[0].table["image"]
    for i, name in enumerate(names):
        (large / name).write_bytes(save(gray(i, 300, 400), "JPEG") if i < 3 else read(good[1], name))
    run(good[0], large, tmp_path / "s", exact_jpeg=True)
    store = stores.open(tmp_path / "s", verify="full")
    assert store.manifest.exact_jpeg and store.manifest.image_format == ImageFormat(SIZE, exact_jpeg=True)
    pixels = [decode(read(large, names[0]), SIZE, exact_jpeg=exact).pixels for exact in (True, False)]
    np.testing.assert_array_equal(store.images([0])[0], pixels[0])
    assert not np.array_equal(pixels[0], pixels[1])
    assert b"exact_jpeg" not in (good[2] / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="other records or settings"):
        run(good[0], large, tmp_path / "s")
    broken = tmp_path / "broken"
    make_records(broken, bad=True)
    for first in (False, True):
        out = tmp_path / f"unfinished {first}"
        with pytest.raises(UserError, match="cannot be used"):
            run(good[0], broken, out, exact_jpeg=first)
        with pytest.raises(UserError, match="unfinished ingest with other"):
            run(good[0], broken, out, exact_jpeg=not first)


def test_progress_counts_every_image_once(good: tuple[Records, Path, Path], tmp_path: Path) -> None:
    calls: list[tuple[int, int, int]] = []
    result = run(good[0], good[1], tmp_path / "s", progress=lambda *a: calls.append(a))
    assert calls[0] == (0, N, 0) and calls[-1] == (N, N, 0) and len(calls) == 4
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert (result.rows, result.rejected, result.already, result.resumed) == (N, 0, False, 0) and result.seconds > 0
    assert content(tmp_path / "s") == content(good[2])  # the same bytes as the first time


def test_the_order_of_the_tasks_does_not_change_the_bytes(
    good: tuple[Records, Path, Path], tmp_path: Path, monkeypatch
) -> None:
    """Shards one after the other, the last one first: any number of CPUs gives some such order."""

    def run_reversed(todo: list[ShardRange], job: ShardJob, table: pd.DataFrame) -> Iterator[dict[str, int]]:
        for shard in reversed(todo):
            yield ingest_shard(job, image_paths(table), shard)

    monkeypatch.setattr(ingest_module, "run_shards", run_reversed)
    run(good[0], good[1], tmp_path / "s")
    assert content(tmp_path / "s") == content(good[2])


def test_where_selects_records_and_keeps_their_row_numbers(good: tuple[Records, Path, Path], tmp_path: Path) -> None:
    run(good[0], good[1], tmp_path / "s", where="view == 'PA' and study_number >= 2")
    store = stores.open(tmp_path / "s")
    wanted = [i for i in range(N) if i % 3 and i % 4 >= 2]
    assert store.index["row"].tolist() == wanted
    np.testing.assert_array_equal(store.images(wanted[::-1]), stores.open(good[2]).images(wanted[::-1]))
    with pytest.raises(UserError, match="leaves none"):
        run(good[0], good[1], tmp_path / "t", where="age > 500")
    with pytest.raises(UserError, match="vieww"):
        run(good[0], good[1], tmp_path / "t", where="vieww == 'PA'")
    assert not (tmp_path / "t").exists()


# ---- images that cannot be used


def test_bad_images_are_rejected_with_their_reason_and_the_others_are_stored(tmp_path: Path) -> None:
    records = make_records(tmp_path / "images", bad=True)
    result = run(records, tmp_path / "images", tmp_path / "s", max_rejected=0.05)
    assert (result.rows, result.rejected) == (N - len(BAD), len(BAD))
    store = stores.open(tmp_path / "s", verify="full")
    rejected = store.rejected()
    assert dict(zip(rejected["row"], rejected["reason"], strict=True)) == {i: why for i, (_, why) in BAD.items()}
    assert rejected["image"].tolist() == [f"{i:03d}.png" for i in BAD]
    assert store.index["row"].tolist() == [i for i in range(N) if i not in BAD]
    assert store.manifest.rejected == len(BAD) and store.index["phash"].dtype == np.uint64
    boxes = store.boxes()
    assert boxes is not None and boxes["row"].tolist() == [5]  # without the box of the refused image
    for row, image in zip(store.index["row"], store.images(store.index["row"]), strict=True):
        np.testing.assert_array_equal(image, decode(read(tmp_path / "images", f"{row:03d}.png"), SIZE).pixels)


def test_too_many_refused_images_are_a_one_line_error_and_a_second_run_after_the_fix_completes_the_store(
    tmp_path: Path, good: tuple[Records, Path, Path]
) -> None:
    records = make_records(tmp_path / "images", bad=True)
    out = tmp_path / "s"
    with pytest.raises(UserError) as caught:
        run(records, tmp_path / "images", out)
    message = str(caught.value)
    assert message.startswith("5 of 150 images cannot be used") and "\n" not in message
    assert "truncated (such as 003.png)" in message and "no store was made" in message
    assert "fix the files and run the same command again, or accept this with --max-rejected 0.04" in message
    listed = pd.read_parquet(out / ".ingest" / "rejected.parquet")
    assert str(out / ".ingest" / "rejected.parquet") in message and listed["row"].tolist() == list(BAD)
    with pytest.raises(UserError, match="unfinished ingest"):
        stores.open(out)
    make_records(tmp_path / "images")  # the files are fixed
    result = run(records, tmp_path / "images", out)
    assert (result.rejected, result.resumed) == (
        0,
        0,
    )  # each of the three shards had refused images, so all were ingested again
    assert content(out) == content(good[2])


def test_a_larger_max_rejected_finishes_without_a_fix(tmp_path: Path) -> None:
    records = make_records(tmp_path / "images", bad=True)
    (tmp_path / "images" / "140.png").write_bytes(save(gray(140)))  # the last shard has no refused image
    with pytest.raises(UserError, match="4 of 150"):
        run(records, tmp_path / "images", tmp_path / "s")
    result = run(records, tmp_path / "images", tmp_path / "s", max_rejected=0.03)
    assert (result.rejected, result.resumed) == (4, 22)


def test_no_usable_image_is_an_error_at_any_share(tmp_path: Path) -> None:
    records = make_records(tmp_path / "images")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(
        UserError, match=r"150 of 150 images.*150 file missing \(such as 000.png\).*is this the right root"
    ):
        run(records, tmp_path / "elsewhere", tmp_path / "s", max_rejected=1.0)


def test_paths_that_leave_the_root_are_refused(tmp_path: Path) -> None:
    records = make_records(tmp_path / "images")
    (tmp_path / "secret.png").write_bytes(save(gray(1)))
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    table = records.table.copy()
    table.loc[0, "image"], table.loc[1, "image"] = "../secret.png", "link.png"
    run(replace(records, table=table), tmp_path / "images", tmp_path / "s", max_rejected=0.05)
    assert stores.open(tmp_path / "s").rejected()["reason"].tolist() == ["outside the root"] * 2


def test_an_image_whose_name_is_not_utf8_is_stored_under_a_readable_one(
    good: tuple[Records, Path, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(good[1], tmp_path / "images"))
    (root / "007.png").rename(root / os.fsdecode(b"ni\xf1o.png"))
    table = good[0].table.copy()
    table.loc[7, "image"] = "ni%F1o.png"
    assert run(replace(good[0], table=table), root, tmp_path / "s").rejected == 0
    store = stores.open(tmp_path / "s", verify="full")
    assert store.index["image"][7] == "ni%F1o.png"
    np.testing.assert_array_equal(store.images([7]), stores.open(good[2]).images([7]))


# ---- workers that die


def killing(job: ShardJob, paths: pa.Table, shard: ShardRange) -> dict[str, int]:
    """The task of an ingest whose decoder may kill its process."""
    sys.path.insert(0, str(KILLER))
    importlib.import_module("sitecustomize")

    return ingest_shard(job, paths, shard)


def crashing_once(job: ShardJob, paths: pa.Table, shard: ShardRange) -> dict[str, int]:
    """The task on a machine that is lost in the first round."""
    if job.care == "none" and shard.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ingest_shard(job, paths, shard)


def lost(job: ShardJob, paths: pa.Table, shard: ShardRange) -> dict[str, int]:
    """The task on machines that are always lost."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_an_image_whose_decoder_crashes_is_rejected_and_all_others_are_stored(
    good: tuple[Records, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By an abort, a segmentation fault, and a kill such as that of the kernel for memory; two of them in one shard."""
    root = Path(shutil.copytree(good[1], tmp_path / "images"))
    deadly = {5: signal.SIGABRT, 20: signal.SIGSEGV, 149: signal.SIGKILL}
    for row, number in deadly.items():
        (root / f"{row:03d}.png").write_bytes(f"die of {number:d} ".encode())
    monkeypatch.setattr(ingest_module, "run_shards", partial(run_shards, task=killing))
    calls: list[tuple[int, int, int]] = []
    result = run(good[0], root, tmp_path / "s", max_rejected=0.05, progress=lambda *a: calls.append(a))
    assert (result.rows, result.rejected) == (N - 3, 3) and calls[-1] == (N, N, 3)
    store, first = stores.open(tmp_path / "s", verify="full"), stores.open(good[2])
    reasons = store.rejected().set_index("row")["reason"].to_dict()
    assert reasons == {5: "the decoder crashed", 20: "the decoder crashed", 149: "too little memory to decode it"}
    rows = [row for row in range(N) if row not in deadly]
    assert store.index["row"].tolist() == rows
    np.testing.assert_array_equal(store.images(rows), first.images(rows))
    kept = first.index[first.index["row"].isin(rows)].drop(columns=["offset"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(store.index.drop(columns=["offset"]), kept)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_the_images_of_a_lost_machine_are_not_rejected(
    good: tuple[Records, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "run_shards", partial(run_shards, task=crashing_once))
    assert run(good[0], good[1], tmp_path / "s").rejected == 0
    assert content(tmp_path / "s") == content(good[2])


def test_workers_that_always_die_end_the_ingest_and_it_can_continue(
    good: tuple[Records, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, "run_shards", partial(run_shards, task=lost))
        patch.setattr(ingest_shards, "ROUNDS", ("none", "alone"))  # two of four
        with pytest.raises(UserError, match="the workers of 3 of 3 shards died 2 times, though not at one image"):
            run(good[0], good[1], tmp_path / "s")
    assert run(good[0], good[1], tmp_path / "s").rejected == 0
    assert content(tmp_path / "s") == content(good[2])


# ---- complete stores and interrupted ingests


def test_a_complete_store_is_not_changed(good: tuple[Records, Path, Path]) -> None:
    records, root, out = good
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    result = run(records, root, out)
    assert result.already and (result.rows, result.resumed) == (N, N)
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
    with pytest.raises(UserError, match="other records or settings"):
        ingest(records, root, out, IngestSettings(source="made", size=(16, 16)))
    with pytest.raises(UserError, match="other records or settings"):
        run(replace(records, table=records.table.iloc[:-1]), root, out)


def test_a_damaged_store_is_refused(good: tuple[Records, Path, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(good[2], tmp_path / "s"))
    (out / "images-00001-of-00003.arrow").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        run(good[0], good[1], out)


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_an_ingest_that_stopped_after_some_shards_continues_to_the_same_bytes(
    good: tuple[Records, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    records, root, complete = good
    out = tmp_path / "s"
    with stopped_after(stop_after, records, monkeypatch):
        run(records, root, out)
    with pytest.raises(UserError, match="unfinished ingest"):
        stores.open(out)
    if stop_after:  # a shard without part file, and the temporary file of a kill while writing
        (out / ".ingest" / f"part-{stop_after - 1:05d}.parquet").unlink()
        (out / ".ingest" / ".images-00002-of-00003.arrow.abc.tmp").write_bytes(b"half")
    if stop_after == 3:
        shard = out / "images-00000-of-00003.arrow"
        shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match="unfinished ingest with other size"):
        ingest(records, root, out, IngestSettings(source="made", size=(16, 16)))
    with pytest.raises(UserError, match="unfinished ingest with other records"):
        run(replace(records, table=records.table.assign(A=np.float32(0))), root, out)
    reworded = records.info.model_copy(update={"notes": ("the same, in other words",)})  # by a later version
    result = run(replace(records, info=reworded), root, out)
    assert result.resumed == {0: 0, 1: 0, 2: 64, 3: 64}[stop_after]
    assert content(out) == content(complete)


def test_the_leftovers_of_an_ingest_killed_after_its_last_write_are_removed(
    good: tuple[Records, Path, Path], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(good[2], tmp_path / "s"))
    (out / ".ingest").mkdir()
    (out / ".ingest" / "settings.json").write_text("{}")
    assert store_format.verify(out) == [".ingest: extra, the manifest does not list it"]
    assert run(good[0], good[1], out).already
    assert content(out) == content(good[2])


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {repository!r})
import tests.conftest
from tests.on_ray import test_ingest as t
records = t.make_records(Path({root!r}))
def run_shards(todo, job, table):  # without Ray: the tasks run in this process
    for shard in todo:
        yield t.ingest_shard(job, t.image_paths(table), shard)
t.ingest_module.run_shards = run_shards
t.run(records, {root!r}, {out!r}, progress=lambda done, total, refused: (print(done, flush=True), time.sleep(0.4)))
"""


@pytest.mark.parametrize("after", ["0", "64", "128"])
def test_an_ingest_killed_with_sigkill_continues_to_the_same_bytes(
    good: tuple[Records, Path, Path], tmp_path: Path, after: str
) -> None:
    script = KILLED.format(
        repository=str(Path(__file__).parents[2]), root=str(tmp_path / "images"), out=str(tmp_path / "s")
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == after:
                time.sleep(
                    {"0": 0.405, "64": 0.41, "128": 0.0}[after]
                )  # while a shard is processed, and between two shards
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
    with pytest.raises(UserError, match="unfinished ingest"):
        stores.open(tmp_path / "s")
    result = run(good[0], tmp_path / "images", tmp_path / "s")
    assert result.resumed >= {"0": 0, "64": 64, "128": 128}[after]
    assert content(tmp_path / "s") == content(good[2])


# ---- folders with other content, and errors of tasks


def test_a_folder_with_other_content_is_refused_and_not_changed(
    good: tuple[Records, Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not empty \(it contains thesis.txt\)"):
        run(good[0], good[1], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="is a file"):
        run(good[0], good[1], tmp_path / "thesis.txt")
    (tmp_path / "empty").mkdir()
    assert run(good[0], good[1], tmp_path / "empty").rows == N


def test_a_label_with_the_name_of_a_column_of_the_store_is_ingested(
    good: tuple[Records, Path, Path], tmp_path: Path
) -> None:
    info = good[0].info.model_copy(update={"labels": ("A", "variance")})
    records = replace(good[0], table=good[0].table.rename(columns={"B": "variance"}), info=info)
    run(records, good[1], tmp_path / "s", where="`label/variance` != 1")
    store, first = stores.open(tmp_path / "s"), stores.open(good[2])
    kept = first.index[first.index["B"] != 1]
    np.testing.assert_array_equal(label_values(store.index, store.labels), label_values(kept, first.labels))
    assert store.index["variance"].tolist() == kept["variance"].tolist()
    with pytest.raises(UserError, match="names variance, which is a label and a column that the store will have"):
        run(records, good[1], tmp_path / "t", where="variance != 1")


def test_a_user_error_of_a_task_is_raised_as_one_line(
    good: tuple[Records, Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(job: object, records: object, shard: object) -> dict[str, int]:
        raise UserError("no space left to write there; free some and run the same command again")

    def defect(job: object, records: object, shard: object) -> dict[str, int]:
        raise ZeroDivisionError("ours")

    job = ShardJob(str(good[1]), str(tmp_path), 1, ImageFormat(SIZE))
    with pytest.raises(UserError) as caught:
        list(run_shards([ShardRange(0, 0, N)], job, good[0].table, full))
    assert type(caught.value) is UserError  # not Ray's RayTaskError(UserError), whose text is a traceback
    assert str(caught.value) == "no space left to write there; free some and run the same command again"
    assert "Traceback" not in "".join(capfd.readouterr())
    with pytest.raises(Exception, match="ours") as other:
        list(run_shards([ShardRange(0, 0, N)], job, good[0].table, defect))
    assert not isinstance(other.value, UserError)


def test_the_data_context_is_restored(good: tuple[Records, Path, Path], tmp_path: Path) -> None:
    from ray.data.context import DataContext

    before = {k: v for k, v in vars(DataContext.get_current()).items() if isinstance(v, bool)}
    run(good[0], good[1], tmp_path / "s")
    assert {k: v for k, v in vars(DataContext.get_current()).items() if isinstance(v, bool)} == before
