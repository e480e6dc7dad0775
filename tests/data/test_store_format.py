"""Manifest and checksums: every damage is found and its file named."""

import json
from pathlib import Path

import numpy as np
import pytest

from cxr_ray.data import store as stores
from cxr_ray.data import store_format
from cxr_ray.data.store_format import ImageFormat
from cxr_ray.errors import UserError
from tests.data.small_store import ROWS


def only_problem(path: Path) -> str:
    """The one line of `verify`."""
    found = store_format.verify(path)
    assert len(found) == 1, found
    return found[0]


def test_every_flipped_bit_is_found_and_its_file_named(copy: Path) -> None:
    assert store_format.verify(copy) == []
    rng = np.random.default_rng(0)
    files = sorted(copy.iterdir())
    for number in range(200):
        file = files[number % len(files)]
        original = file.read_bytes()
        body = bytearray(original)
        body[rng.integers(len(body))] ^= 1 << rng.integers(8)
        file.write_bytes(body)
        assert only_problem(copy).startswith(f"{file.name}: "), number
        with pytest.raises(UserError, match=r"damaged|format \d+"):
            stores.open(copy, verify="full")
        file.write_bytes(original)
    assert store_format.verify(copy) == []


def test_every_bit_of_the_manifest_counts(copy: Path) -> None:
    manifest = copy / "manifest.json"
    original = manifest.read_bytes()
    for at in range(0, len(original), 7):
        body = bytearray(original)
        body[at] ^= 1 << at % 8
        manifest.write_bytes(body)
        assert only_problem(copy).startswith("manifest.json: "), at
        with pytest.raises(UserError):
            stores.open(copy)


def test_cut_missing_longer_and_extra_files_are_found(copy: Path) -> None:
    shard = copy / "images-00002-of-00006.arrow"
    original = shard.read_bytes()
    shard.write_bytes(original[:-5])
    assert only_problem(copy) == f"{shard.name}: cut, {len(original) - 5} bytes instead of {len(original)}"
    with pytest.raises(
        UserError, match=rf"{shard.name}: cut, \d+ bytes instead of \d+; `cxr-ray verify .*ingest again"
    ):
        stores.open(copy)
    shard.write_bytes(original + b"x")
    assert "longer" in only_problem(copy)
    shard.unlink()
    assert only_problem(copy) == f"{shard.name}: missing"
    with pytest.raises(UserError, match="missing"):
        stores.open(copy)
    with pytest.raises(UserError, match="cannot read"):
        stores.open(copy, verify="none").images(ROWS)
    (copy / "images-00003-of-00006.arrow").unlink()
    with pytest.raises(UserError, match=rf"{shard.name}: missing \(and 1 more\); `cxr-ray verify"):
        store_format.check(copy)
    assert len(store_format.verify(copy)) == 2


def test_an_extra_file_is_found_and_harmless_for_reading(copy: Path) -> None:
    (copy / "notes.txt").write_text("x")
    assert only_problem(copy) == "notes.txt: extra, the manifest does not list it"
    assert store_format.check(copy) == stores.open(copy).manifest


def test_an_unknown_field_of_the_manifest_counts_in_the_digest(copy: Path) -> None:
    """A store that a later version wrote in the same format opens, and a change of its new field is found."""
    body = json.loads((copy / "manifest.json").read_text())
    body.pop("digest")
    body["new"] = 1
    digest = store_format.fingerprint_of(body)
    (copy / "manifest.json").write_bytes(store_format.canonical_json({**body, "digest": digest}))
    assert stores.open(copy).fingerprint == digest
    (copy / "manifest.json").write_bytes(store_format.canonical_json({**body, "new": 2, "digest": digest}))
    with pytest.raises(UserError, match="digest differs"):
        stores.open(copy)


def test_a_manifest_with_other_whitespace_is_refused(copy: Path) -> None:
    body = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(body))
    assert only_problem(copy) == store_format.MANIFEST_CHANGED


def test_a_manifest_of_the_first_format_needs_no_later_field(tmp_path: Path) -> None:
    body = {
        "format_version": 1,
        "source": "nih",
        "labels": ["Edema"],
        "task": "binary",
        "size": [8, 9],
        "rows": 3,
        "files": {},
    }
    manifest = store_format.parse_manifest(json.dumps(body).encode(), tmp_path)
    assert (manifest.aspect, manifest.depth, manifest.rejected) == ("squash", 8, 0)
    assert (manifest.settings, manifest.digest, manifest.size, manifest.rows) == ("", "", (8, 9), 3)
    for missing in ("format_version", "source", "labels", "task", "size", "rows", "files"):
        short = {name: value for name, value in body.items() if name != missing}
        with pytest.raises(UserError, match=r"manifest\.json is damaged: it is not a manifest"):
            store_format.parse_manifest(json.dumps(short).encode(), tmp_path)


def test_images_are_224_pixels_wide_and_high_with_8_bits_if_nothing_else_is_given() -> None:
    assert ImageFormat() == ImageFormat(size=(224, 224), aspect="squash", depth=8)


def test_a_store_with_a_changed_manifest_is_refused_by_the_check_of_sizes(copy: Path) -> None:
    manifest = copy / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows": 100', b'"rows": 101'))
    with pytest.raises(UserError, match=r"is damaged: manifest\.json: bytes changed.*ingest again"):
        store_format.check(copy)


def test_the_index_has_the_source_s_own_columns_between_the_record_s_and_the_image_s() -> None:
    columns = store_format.index_columns(["image", "study_number", "patient", "A"], ["A"])
    at = columns.index("study_number")
    assert columns[at - 1] == "mask" and columns[at + 1] == "height" and columns[-1] == "A"
    assert len(columns) == len(store_format.RESERVED) + 2


@pytest.mark.parametrize("column", ["shard", "mean", "label/Edema"])
def test_reserved_column_names_are_refused(column: str) -> None:
    with pytest.raises(UserError, match=f"reserves the column name '{column}'"):
        store_format.index_columns([column], ["A"])


def test_label_columns_on_disk_and_in_memory_are_inverse() -> None:
    """Those that share their name with a column of the store (`sex`) or of the source (`kind`) have the prefix in memory too."""
    labels = ["Edema", "sex", "kind", "left"]
    in_memory = ["patient", "sex", "kind", "left", "Edema", "label/sex", "label/kind", "label/left"]
    on_disk = store_format.names_on_disk(in_memory, labels)
    assert list(on_disk.values()) == [f"label/{label}" for label in labels]
    written = [on_disk.get(name, name) for name in in_memory]
    read = store_format.names_in_memory(written, labels)
    assert [read.get(name, name) for name in written] == in_memory
