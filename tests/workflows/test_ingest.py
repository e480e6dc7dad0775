"""`ingest` from Python: by name and by records it writes the store that the command writes, and opens it."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from cxr_ray import datasets
from cxr_ray.data import store as stores
from cxr_ray.datasets.phantom import generate
from cxr_ray.errors import UserError
from cxr_ray.on_ray.ingest import IngestSettings
from cxr_ray.on_ray.ingest import ingest as on_ray
from cxr_ray.workflows.ingest import ingest


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate.write(tmp_path_factory.mktemp("ingest") / "raw", patients=6, size=48, seed=1)


def test_by_name_and_by_records_the_store_is_the_same(
    ray_local: None, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    store = ingest("phantom", root, tmp_path / "a", size=32, log=lines.append)
    assert isinstance(store, stores.Store) and store.size == (32, 32) and store.manifest.source == "phantom"
    assert lines[0].startswith(f"ingested {len(store)} images, rejected 0, in ")
    assert f"ingest: 0 of {len(store)} images (0%)" in capsys.readouterr().out
    records = datasets.read_dataset("phantom", root)
    again = ingest(records, str(root), str(tmp_path / "b"), size=(32, 32), log=lines.append)
    command = on_ray(records, root, tmp_path / "c", IngestSettings(source="phantom", size=(32, 32)))
    assert store.fingerprint == again.fingerprint == stores.open(command.path).fingerprint
    lines.clear()
    assert ingest(records, root, tmp_path / "b", size=32, log=lines.append).fingerprint == store.fingerprint
    assert lines == [f"nothing to do: these {len(store)} images were already ingested with the same settings"]
    some = dataclasses.replace(records, table=records.table.iloc[:4], boxes=None, source="")
    assert (
        len(
            ingest(some, root, tmp_path / "d", size=32, hash_patients=True, hash_key=tmp_path / "key", log=lines.append)
        )
        == 4
    )


def test_images_of_one_gray_are_warned_of_by_row(ray_local: None, root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(root, tmp_path / "raw"))
    records = datasets.read_dataset("phantom", folder)
    image = folder / records.table["image"][3]
    with Image.open(image) as opened:
        Image.new("L", opened.size).save(image)
    lines: list[str] = []
    store = ingest("phantom", folder, tmp_path / "s", size=32, exact_jpeg=True, log=lines.append)
    assert store.manifest.exact_jpeg and store.index["variance"][3] == 0
    (warning,) = (line for line in lines if "one gray" in line)
    assert warning.startswith(f"warning: 1 of {len(store)} image is one gray in all pixels (row 3)")


@pytest.mark.parametrize(
    ("dataset", "given", "message"),
    [
        ("phantoms", {}, "unknown source 'phantoms'; did you mean 'phantom'"),
        ("phantom", {"options": {"none_such": 1}}, "unknown option 'none_such'"),
        ("phantom", {"size": 0}, "size: give pixels from 1 to 4096"),
        ("phantom", {"hash_key": "key"}, "hash_key needs hash_patients"),
        ("phantom", {"plugins": ["none_such"]}, "cannot import 'none_such'"),
        (pd.DataFrame({"image": ["a.png"]}), {}, "not DataFrame; for a table of your own"),
        ("records", {"options": {"labels": ["Edema"]}}, "give these to read_dataset"),
    ],
)
def test_a_mistake_is_one_line_and_starts_no_ray(
    root: Path, tmp_path: Path, dataset: Any, given: dict[str, Any], message: str
) -> None:
    source = datasets.read_dataset("phantom", root) if isinstance(dataset, str) and dataset == "records" else dataset
    with pytest.raises(UserError, match=message) as caught:
        ingest(source, root, tmp_path / "out", **given)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_the_folder_of_records_must_exist(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder at .*gone"):
        ingest(datasets.read_dataset("phantom", root), tmp_path / "gone", tmp_path / "out")
