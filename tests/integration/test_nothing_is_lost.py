"""Whatever happens to the files of a dataset, each listed image is stored, rejected with its reason, or dropped by a rule.

Ray does not run here: the shards are written in this process. The lists of images are counted without the code of the sources.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_ray import datasets
from cxr_ray.data import store as stores
from cxr_ray.datasets import Records
from cxr_ray.datasets.preview import dry_run
from cxr_ray.errors import UserError
from cxr_ray.on_ray import ingest as ingest_module
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from cxr_ray.on_ray.ingest_shards import ShardJob, ShardRange, image_paths, ingest_shard
from tests.fakes.layouts import LAYOUTS, OPTIONS

IMAGES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
FOLDERS = {"image_folder": "", "covid_radiography": "images", "dicom_folder": ""}
"""Sources whose list of images is what is in their folders (below one of this name), not a table."""
DAMAGES = ("removed", "folder", "link", "empty", "text", "cut", "copied", "renamed", "noise", "table", "backup")
COUNTED = re.compile(r"left out: (.*)|dropped: (.*)|no DICOMs: (.*)|^(\d+) CT volumes")
"""In the notes: images that a source leaves out."""


@pytest.fixture(autouse=True, scope="module")
def _in_this_process() -> Iterator[None]:
    def run_shards(todo: list[ShardRange], job: ShardJob, table: pd.DataFrame) -> Iterator[dict[str, int]]:
        for shard in todo:
            yield ingest_shard(job, image_paths(table), shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_module, "run_shards", run_shards)
        yield


@pytest.fixture(
    scope="module",
    params=sorted(LAYOUTS),
)
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A source, and its fake dataset."""
    return request.param, LAYOUTS[request.param](tmp_path_factory.mktemp("intact") / "data")


def damage(file: Path, kind: str, number: int) -> None:
    """Damage one image file."""
    body = file.read_bytes()
    if kind == "copied":
        shutil.copy(file, file.with_name(f"copy{number} of {file.name}"))
    elif kind == "backup":
        file.rename(file.with_name(file.name + ".bak"))
    elif kind == "renamed":
        file.rename(file.with_name(f"other{number}-{file.name}"))
    elif kind in ("removed", "folder", "link"):
        file.unlink()
        if kind == "folder":
            file.mkdir()
        if kind == "link":
            file.symlink_to(file.parent / "nowhere")
    else:
        rng = np.random.default_rng(number)
        file.write_bytes(
            {"empty": b"", "text": b"<html>404</html>", "cut": body[: len(body) // 2], "noise": rng.bytes(500)}.get(
                kind, b"a,b\n1,2\n"
            )
        )


def left_out(records: Records) -> int:
    """Images that the notes count as left out."""
    found = [match for note in records.info.notes if (match := COUNTED.search(note))]
    return sum(
        int(count.replace(",", ""))
        for m in found
        for count in re.findall(r"\d[\d,]*", " ".join(filter(None, m.groups())))
    )


def listed_files(root: Path, name: str) -> int:
    """Image files in the folders of a source that lists those."""
    tables = (".csv",) if name == "dicom_folder" else (".csv", ".xlsx", ".md", ".txt")  # it counts all but its table
    files = [p for p in root.rglob("*") if not p.is_dir() and p.suffix.lower() not in tables]
    if FOLDERS[name]:
        files = [p for p in files if p.parent.name == FOLDERS[name]]
    return len(files)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    damages=st.lists(st.tuples(st.sampled_from(DAMAGES), st.integers(0, 10**6)), min_size=1, max_size=6),
    where=st.sampled_from([None, "source_row % 2 == 0"]),
)
def test_listed_is_accepted_and_rejected_and_dropped(
    intact: tuple[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    damages: list[tuple[str, int]],
    where: str | None,
) -> None:
    name, source = intact
    folder = tmp_path_factory.mktemp("damaged")
    root = Path(shutil.copytree(source, folder / "data", symlinks=True))
    before = datasets.load(name, root, OPTIONS.get(name, {}))
    for kind, number in damages:
        files = sorted(p for p in root.rglob("*") if p.is_file() and (p.suffix in IMAGES or "study" in str(p)))
        if files:
            damage(files[number % len(files)], kind, number)
    try:
        records = datasets.load(name, root, OPTIONS.get(name, {}))
    except UserError as error:  # an emptied class folder, no DICOM that is left
        assert name in FOLDERS and "\n" not in str(error)
        return
    if name in FOLDERS:
        assert len(records.table) + left_out(records) == listed_files(root, name)
    else:  # the table decides, whatever happened to the files
        assert records.table["source_row"].tolist() == before.table["source_row"].tolist()

    counts = dry_run(records, root, size=(8, 8))
    assert counts.listed == len(records.table) == counts.kept + sum(counts.dropped.values()) == counts.ingested
    absent = [path for path in records.paths if not (root / path).is_file()]
    assert counts.missing == len(absent)
    result_rows, rejected = write(records, root, folder / "store", where)
    chosen = records.table if where is None else records.table[records.table["source_row"] % 2 == 0]
    assert sorted([*result_rows, *rejected["row"]]) == chosen.index.tolist()
    assert rejected["reason"].str.len().gt(0).all()
    missing = {row for row, path in records.paths[chosen.index].items() if path in absent}
    assert missing <= set(rejected["row"])


def write(records: Records, root: Path, out: Path, where: str | None) -> tuple[list[int], pd.DataFrame]:
    """Rows of the images that an ingest stores, and its rejected ones."""
    setting = IngestSettings(source="damaged", size=(8, 8), max_rejected=1.0, where=where)
    try:
        ingest(records, root, out, setting)
    except UserError as error:
        if "records; widen it" in str(error):
            return [], pd.DataFrame({"row": [], "reason": pd.Series([], dtype=str)})
        assert "images cannot be used" in str(error)  # all of them
        return [], pd.read_parquet(out / ".ingest" / "rejected.parquet")
    store = stores.open(out, verify="full")
    rejected = store.rejected()
    assert (store.manifest.rows, store.manifest.rejected) == (len(store), len(rejected))
    assert (rejected["image"].to_numpy() == records.table["image"].loc[rejected["row"]].to_numpy()).all()
    assert len(store.images(store.index["row"])) == len(store)
    return store.index["row"].tolist(), rejected
