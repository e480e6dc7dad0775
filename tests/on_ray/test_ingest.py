"""The ingest with Ray Data: every image is stored or refused with a reason, and interruptions do not change the bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray.data import store as stores
from cxr_ray.data import store_format
from cxr_ray.data.store_format import MAX_SHARDS, ImageFormat, shard_name
from cxr_ray.datasets import Records
from cxr_ray.errors import UserError
from cxr_ray.imaging.decode import decode
from cxr_ray.imaging.files import read
from cxr_ray.labels import label_values
from cxr_ray.on_ray import ingest as ingest_module
from cxr_ray.on_ray.ingest import (
    IngestSettings,
    ingest,
    rows_per_shard,
)
from cxr_ray.on_ray.ingest_shards import ShardJob, ShardRange, image_paths, ingest_shard, run_shards
from tests.fakes.stopped_ingest import stopped_after
from tests.on_ray.small_ingest import BAD, SIZE, N, content, gray, make_records, run, save

pytestmark = pytest.mark.usefixtures("ray_local")


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
from cxr_ray.on_ray import ingest, ingest_shards
from tests.on_ray import small_ingest
records = small_ingest.make_records(Path({root!r}))
def run_shards(todo, job, table):  # without Ray: the tasks run in this process
    for shard in todo:
        yield ingest_shards.ingest_shard(job, ingest_shards.image_paths(table), shard)
ingest.run_shards = run_shards
small_ingest.run(records, {root!r}, {out!r}, progress=lambda done, total, refused: (print(done, flush=True), time.sleep(0.4)))
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
