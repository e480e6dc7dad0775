"""Lists of inputs: their names and order, their digest, and what is left out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray.errors import UserError
from cxr_ray.imaging.files import Root
from cxr_ray.imaging.pixels import ImageError
from cxr_ray.inference.input_list import open_inputs, public_name
from tests.fakes import dicom
from tests.fakes.explained import store, trained
from tests.fakes.images import encoded

PNG = encoded(np.zeros((4, 4), np.uint8))


def write(folder: Path, **files: bytes) -> None:
    for name, body in files.items():
        path = folder / name.replace("__", "/").replace("_png", ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def test_a_folder_has_images_at_any_depth_and_dicoms_without_an_extension(tmp_path: Path) -> None:
    scan = dicom.dicom(None)
    write(tmp_path, b_png=PNG, a__c_png=PNG, a__IM1=scan, README=b"text", DICOMDIR=scan)
    (tmp_path / "1.2.840.7").write_bytes(scan)
    (tmp_path / "notes.txt").write_bytes(b"")
    (tmp_path / ".hidden.png").write_bytes(PNG)
    found = open_inputs(tmp_path)
    assert found.names == ("1.2.840.7", "a/IM1", "a/c.png", "b.png") and len(found) == 4
    assert found.notes == ("files that are no images were left out: 2 without an ending, 1 .txt",)


def test_a_link_out_of_the_folder_costs_itself_and_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "other", secret_png=PNG, more__d_png=PNG, IM9=dicom.dicom(None))
    write(tmp_path / "in", a_png=PNG, b__c_png=PNG)
    for name, target in {
        "out.png": tmp_path / "other" / "secret.png", "more": tmp_path / "other" / "more", "again": tmp_path / "in" / "b",
        "same.png": tmp_path / "in" / "a.png", "IM9": tmp_path / "other" / "IM9",
    }.items():  # fmt: skip
        (tmp_path / "in" / name).symlink_to(target)
    found = open_inputs(tmp_path / "in")
    assert found.names == ("a.png", "b/c.png", "out.png", "same.png")
    assert found.notes == (
        "files that are no images were left out: 1 by a link out of the folder, 1 by a link to another folder of it, 1 without an ending",
    )
    root = Root(tmp_path / "in")
    assert root.read("same.png") == PNG
    with pytest.raises(ImageError, match="outside the root"):
        root.read("out.png")


def test_the_digest_is_of_the_inputs_and_their_order(tmp_path: Path) -> None:
    write(tmp_path / "one", a_png=PNG, b_png=PNG)
    write(tmp_path / "two", a_png=PNG, b_png=PNG)
    assert open_inputs(tmp_path / "one").digest == open_inputs(tmp_path / "two").digest  # it may be moved
    for other in (b"", encoded(np.ones((4, 4), np.uint8))):  # the same names for other films, as of another day
        write(tmp_path / "two", b_png=other)
        assert open_inputs(tmp_path / "one").digest != open_inputs(tmp_path / "two").digest
    write(tmp_path / "two", b_png=PNG, c_png=PNG)
    assert open_inputs(tmp_path / "one").digest != open_inputs(tmp_path / "two").digest
    tables = {}
    for name, rows in {"ab": ["a.png", "b.png"], "ba": ["b.png", "a.png"], "aba": ["a.png", "b.png", "a.png"]}.items():
        pd.DataFrame({"image": rows, "x": 1}).to_csv(tmp_path / f"{name}.csv", index=False)
        tables[name] = open_inputs(tmp_path / f"{name}.csv").digest
    assert len(set(tables.values())) == 3
    whole, val = (open_inputs(store(), run=trained(), part=part) for part in (None, "val"))
    assert whole.digest != val.digest and len(val) < len(whole) == 60


def test_a_table_keeps_its_rows_and_hides_absolute_paths(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    cells = ["a.png", "./b.png", "sub\\c.png", str(images / "d.png"), "/other/e.png", "a.png", ""]
    table = pd.DataFrame({"file": cells, "patient": ["1", "", "2", "2", "3", "4", "5"], "n": 0})
    for name in ("list.csv", "list.parquet"):
        table.to_csv(tmp_path / name, index=False) if name.endswith("csv") else table.to_parquet(tmp_path / name)
        found = open_inputs(tmp_path / name, image="file", root=images)
        assert found.names == ("a.png", "b.png", "sub/c.png", "d.png", "/other/e.png", "a.png", "")
        assert found.patients == ("1", None, "2", "2", "3", "4", "5") and found.studies is None
    assert public_name("/other/e.png") == "e.png" and public_name("sub/c.png") == "sub/c.png"
    hashed = found.hashed(b"0123456789abcdef").patients
    assert hashed is not None and hashed[1] is None and hashed[2] == hashed[3] != hashed[0]


def test_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image\n")
    with pytest.raises(UserError, match="lists no image"):
        open_inputs(tmp_path / "list.csv")
