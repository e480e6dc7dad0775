"""Synthetic X-rays: deterministic bytes, the documented layout, label frequencies, boxes, and visible findings."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import cxr_ray
from cxr_ray import datasets
from cxr_ray.datasets.phantom import drawing, generate
from cxr_ray.errors import UserError

LABELS = list(generate.FINDINGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate.write(tmp_path_factory.mktemp("phantom") / "out", patients=40, size=96, seed=3)


@pytest.fixture(scope="module")
def records(folder: Path) -> datasets.Records:
    return datasets.load("phantom", folder)


def digest(folder: Path) -> str:
    body = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        body.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return body.hexdigest()


def test_equal_settings_give_equal_bytes(tmp_path: Path) -> None:
    generate.write(tmp_path / "a", patients=3, size=40, seed=1)
    generate.write(tmp_path / "b", patients=3, size=40, seed=1)
    generate.write(tmp_path / "c", patients=3, size=40, seed=2)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_make_phantom_is_its_public_name(tmp_path: Path) -> None:
    generate.write(tmp_path / "a", patients=2, size=40, seed=1)
    made = cxr_ray.make_phantom(tmp_path / "b", patients=2, size=40, seed=1)
    assert made == tmp_path / "b" and digest(made) == digest(tmp_path / "a")
    with pytest.raises(UserError, match="is not empty"):
        cxr_ray.make_phantom(str(made))


def test_a_patient_does_not_depend_on_the_number_of_patients_or_the_size(tmp_path: Path) -> None:
    generate.write(tmp_path / "few", patients=2, size=40)
    generate.write(tmp_path / "many", patients=4, size=40)
    generate.write(tmp_path / "large", patients=4, size=64)
    few, many, large = (datasets.read("phantom", tmp_path / name) for name in ("few", "many", "large"))
    pd.testing.assert_frame_equal(many.head(len(few)), few)
    pd.testing.assert_frame_equal(many, large)
    for image in few["image"]:
        assert (tmp_path / "few" / image).read_bytes() == (tmp_path / "many" / image).read_bytes()


def test_the_layout_is_as_documented(folder: Path, records: datasets.Records) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["README.txt", "boxes.csv", "images", "phantom.csv"]
    assert "patients=40, size=96, seed=3" in (folder / "README.txt").read_text()
    table = records.table
    assert sorted(f"images/{p.name}" for p in (folder / "images").iterdir()) == sorted(table["image"])
    assert table["image"].str.fullmatch(r"images/p\d{5}_s\d_v\d\.png").all()
    assert (table["study"] + "_v" + table["image"].str[-5]).radd("images/").add(".png").eq(table["image"]).all()
    assert (
        table["study"].str.startswith(table["patient"].iloc[0]).sum()
        == (table["patient"] == table["patient"].iloc[0]).sum()
    )
    assert table["patient"].nunique() == 40
    assert set(table["view"]) == {"AP", "PA"} and set(table["sex"]) == {"Female", "Male"}
    assert table["age"].between(18, 90).all()
    for image in table["image"].head(5):
        with Image.open(folder / image) as picture:
            assert (picture.mode, picture.size) == ("L", (96, 96))


def test_patients_have_several_studies_and_their_images_share_labels(records: datasets.Records) -> None:
    table = records.table
    assert (table.groupby("patient")["study"].nunique() > 1).mean() > 0.3
    assert (table.groupby("study").size() > 1).mean() > 0.15
    assert (table.groupby("study")[LABELS].nunique(dropna=False) == 1).all(axis=None)
    assert (table.groupby("patient")["sex"].nunique() == 1).all()


def test_labels_are_imbalanced_uncertain_and_mostly_not_mentioned() -> None:
    """Labels of 600 patients, without images: every frequency that the documentation promises."""
    table = pd.DataFrame([r for p in range(600) for r in labels_of_patient(p)])
    share = {label: (table[label] == "1.0").mean() for label in LABELS}
    assert all(0.04 <= s <= 0.47 for s in share.values()), share
    assert max(share.values()) > 3 * min(share.values())
    uncertain = (table[LABELS] == "-1.0").mean()
    assert (uncertain > 0.001).all() and (uncertain < 0.12).all()
    assert ((table[LABELS] == "0.0").mean() > 0.01).all()
    assert ((table[LABELS] == "").mean() > 0.3).all()
    assert ((table[LABELS] == "1.0").sum(axis=1) >= 2).mean() > 0.25
    assert len((table[LABELS] == "1.0").drop_duplicates()) > 25


def labels_of_patient(number: int) -> list[dict[str, str]]:
    """The labels of a patient's studies, generated without images."""
    rng = np.random.default_rng([9, number])
    illness = float(rng.normal()) + 0.26
    state: dict[str, float] = {}
    found: list[dict[str, str]] = []
    for _ in range(min(int(rng.geometric(0.45)), 6)):
        state = generate.next_findings(state, illness, rng)
        found.append(generate.report_labels(state, rng))
    return found


def test_only_positive_labels_have_boxes_and_all_are_inside_the_image(records: datasets.Records) -> None:
    boxes, table = records.boxes, records.table
    assert boxes is not None and list(boxes.columns) == ["row", "label", "x", "y", "w", "h"]
    assert (boxes[["x", "y"]] >= 0).all(axis=None) and (boxes[["w", "h"]] > 0).all(axis=None)
    assert ((boxes["x"] + boxes["w"]) <= 96).all() and ((boxes["y"] + boxes["h"]) <= 96).all()
    boxed = set(zip(boxes["row"], boxes["label"], strict=True))
    positive = {(row, label) for label in LABELS for row in table.index[table[label] == 1]}
    assert boxed <= positive
    assert len(positive - boxed) <= 0.02 * len(positive)  # a finding may be outside the image


def test_a_box_is_the_extent_of_the_mask() -> None:
    """Compared with the box of the transformed mask."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((116, 116), dtype=np.float32)
        top, left, h, w = (int(v) for v in (*rng.integers(0, 80, 2), *rng.integers(4, 36, 2)))
        mask[top : top + h, left : left + w] = rng.random((h, w)) < 0.7
        angle, zoom = rng.normal(0, 0.08), rng.uniform(0.9, 1.1)
        c, s = np.cos(angle) / zoom, np.sin(angle) / zoom
        inverse = (c, s, 58 - (c + s) * 50, -s, c, 58 + (s - c) * 50)
        solid = Image.fromarray(mask.astype(np.uint8))
        expected = solid.transform((100, 100), Image.Transform.AFFINE, inverse, Image.Resampling.NEAREST).getbbox()
        box = drawing.mask_box(mask, inverse, 100)
        if expected is None:
            continue
        assert box is not None
        x, y, w, h = box
        assert np.abs(np.array([x, y, x + w, y + h]) - np.array(expected)).max() <= 2


@pytest.mark.parametrize(
    ("label", "brighter"), [("Lung Opacity", True), ("Pleural Effusion", True), ("Pneumothorax", False)]
)
def test_a_finding_changes_the_image_inside_its_box(label: str, brighter: bool) -> None:
    """The same body, pose and exposure with and without the finding differ in the box, and hardly outside."""
    canvas = drawing.canvas_of(96)
    for seed in range(6):
        body = drawing.draw_anatomy(canvas, False, np.random.default_rng(seed))
        placements = {label: drawing.place_finding(canvas, body, label, np.random.default_rng(seed + 50))}
        with_it, boxes = drawing.render(canvas, body, {label: 0.8}, placements, False, np.random.default_rng(7))
        without, none = drawing.render(canvas, body, {}, {}, False, np.random.default_rng(7))
        assert none == [] and {box[0] for box in boxes} == {label}
        change = with_it.astype(float) - without
        inside = np.zeros(change.shape, dtype=bool)
        for _, x, y, w, h in boxes:
            inside[y : y + h, x : x + w] = True
        assert (change[inside].mean() > 2) if brighter else (change[inside].mean() < -2)
        assert np.abs(change[inside]).mean() > 4 * np.abs(change[~inside]).mean()


def test_an_enlarged_heart_is_wider_than_half_the_chest() -> None:
    canvas = drawing.canvas_of(128)
    body = drawing.draw_anatomy(canvas, False, np.random.default_rng(0))
    assert body.heart_ratio < 0.5
    _, boxes = drawing.render(canvas, body, {"Cardiomegaly": 0.3}, {}, False, np.random.default_rng(1))
    chest = body.width * 128
    assert 0.5 < boxes[0][3] / chest < 0.75


def test_images_have_contrast_and_few_saturated_pixels(folder: Path, records: datasets.Records) -> None:
    for image in records.table["image"]:
        pixels = np.asarray(Image.open(folder / image))
        assert pixels.std() > 20
        assert (pixels == 255).mean() < 0.25 and (pixels == 0).mean() < 0.45
    first = np.asarray(Image.open(folder / records.table["image"][0]))
    assert any((np.asarray(Image.open(folder / image)) != first).any() for image in records.table["image"][1:])


def test_progress_is_reported(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    generate.write(tmp_path / "out", patients=2, size=32, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, 2), (1, 2), (2, 2)]


def test_wrong_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"patients": 0}, "patients=0: a phantom needs at least 1"),
        ({"size": 8}, "size=8: give 32 to 2048 pixels"),
        ({"seed": -1}, "seed=-1: give 0 or more"),
    )
    for bad, message in wrong:
        with pytest.raises(UserError) as error:
            generate.write(out, **bad)
        assert str(error.value) == message
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(UserError) as error:
        generate.write(out, patients=1, size=32)
    assert str(error.value) == f"{out} is not empty; give a new folder, or remove it first"
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_an_unfinished_folder_and_a_damaged_table_are_refused(tmp_path: Path) -> None:
    out = generate.write(tmp_path / "out", patients=1, size=32)
    boxes, table = out / "boxes.csv", out / "phantom.csv"
    rows = len(pd.read_csv(boxes))
    boxes.write_text(boxes.read_text() + "images/p00099_s1_v1.png,Edema,1,1,2,2\n")
    with pytest.raises(UserError) as error:
        datasets.load("phantom", out)
    assert str(error.value) == (
        f"{boxes}, row {rows} (counted from 0): phantom.csv does not list 'images/p00099_s1_v1.png'; "
        "write the phantom again, to a new folder"
    )
    table.write_text(table.read_text().replace("Pneumothorax", "Pneumothorx"))
    with pytest.raises(UserError, match="has no column 'Pneumothorax'; did you mean 'Pneumothorx'"):
        datasets.load("phantom", out)
    table.unlink()
    with pytest.raises(UserError) as error:
        datasets.load("phantom", out)
    assert str(error.value) == f"no phantom.csv in {out}: the phantom is unfinished; write it again, to a new folder"
