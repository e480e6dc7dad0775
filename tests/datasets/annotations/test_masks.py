"""Outlines and masks of CheXlocalize, CheXmask and the COVID-19 Radiography Database."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_ray.datasets.annotations import Annotation, read_annotations
from cxr_ray.errors import UserError
from cxr_ray.imaging.shapes import Polygon
from tests.imaging.test_run_lengths import coco, pairs

MASK = np.zeros((6, 5), bool)
MASK[2:4, 1:4] = True


def mask_of(item: Annotation) -> np.ndarray:
    (only,) = item.parts()
    assert not isinstance(only, tuple) or hasattr(only, "mask")
    return only.mask  # type: ignore[union-attr]


def test_chexlocalizes_outlines(tmp_path: Path) -> None:
    content = {
        "patient1_study1_view1_frontal": {
            "img_size": [60, 50],
            "Airspace Opacity": [[[1, 2], [4, 2], [4, 5.5]], [[7, 7], [9, 7], [9, 9]]],
        }
    }
    (tmp_path / "gt.json").write_text(json.dumps(content))
    (only,) = read_annotations(str(tmp_path / "gt.json")).items
    assert (only.image, only.label, only.frame) == ("patient1_study1_view1_frontal", "Lung Opacity", (60, 50))
    assert only.parts() == [Polygon(((1, 2), (4, 2), (4, 5.5))), Polygon(((7, 7), (9, 7), (9, 9)))]


def test_chexlocalizes_segmentations_and_what_they_state_as_absent(tmp_path: Path) -> None:
    sides = {"size": [6, 5]}
    content = {
        "p": {
            "Edema": {**sides, "counts": coco(MASK)},
            "Atelectasis": {**sides, "counts": coco(np.zeros((6, 5), bool))},
        }
    }
    (tmp_path / "gt.json").write_text(json.dumps(content))
    found = read_annotations(str(tmp_path / "gt.json"))
    assert found.absent == {"p": {"Atelectasis"}} and found.labels == ("Edema",)
    np.testing.assert_array_equal(mask_of(found.items[0]), MASK)


@pytest.mark.parametrize(
    "content",
    [
        "[1]",
        "{",
        '{"p": {"Edema": {"size": [6, 5]}}}',
        '{"p": {"Edema": {"size": [6, 5], "counts": "33"}}}',
        '{"p": {"Edema": [[[1]]]}}',
        '{"p": 3}',
    ],
)
def test_a_damaged_json_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(content)
    with pytest.raises(UserError, match=r"gt\.json") as error:
        read_annotations(str(tmp_path / "gt.json"))
    assert "\n" not in str(error.value)


def test_chexmask_joins_the_lungs_and_leaves_out_poor_masks(tmp_path: Path) -> None:
    left, right, heart = (np.zeros((6, 5), bool) for _ in range(3))
    left[1:4, 0:2] = right[1:5, 3:5] = heart[3, 2] = True
    row = f"{pairs(left)},{pairs(right)},{pairs(heart)},6,5"
    (tmp_path / "m.csv").write_text(
        f"Image Index,Dice RCA (Max),Dice RCA (Mean),Landmarks,Left Lung,Right Lung,Heart,Height,Width\na.png,.9,.8,,{row}\nb.png,.9,.69,,{row}\n"
    )
    assert len(read_annotations(str(tmp_path / "m.csv"), quality=0.6).items) == 4
    lungs, organ = read_annotations(str(tmp_path / "m.csv")).items
    assert (lungs.image, lungs.label, organ.label) == ("a.png", "Lungs", "Heart")
    np.testing.assert_array_equal(mask_of(lungs), left | right)
    np.testing.assert_array_equal(mask_of(organ), heart)


def test_a_run_out_of_chexmasks_image_is_refused_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("ImageID,Left Lung,Right Lung,Heart,Height,Width\na,1 2,30 2,,6,5\n")
    lungs, _ = read_annotations(str(tmp_path / "m.csv")).items
    with pytest.raises(UserError, match=r"m.csv, row 0 \(counted from 0\): a run that leads out of 6 x 5"):
        lungs.parts()


def test_mask_folders_belong_to_images_of_the_same_name(tmp_path: Path) -> None:
    for name in ("COVID", "Normal"):
        for folder in ("images", "masks"):
            (tmp_path / name / folder).mkdir(parents=True)
        Image.fromarray(MASK.astype(np.uint8) * 255).convert("RGB").save(tmp_path / name / "masks" / f"{name}-1.png")
    found = read_annotations(str(tmp_path))
    assert [item.image for item in found.items] == ["COVID/images/COVID-1.png", "Normal/images/Normal-1.png"]
    np.testing.assert_array_equal(mask_of(found.items[0]), MASK)
    (tmp_path / "COVID" / "masks" / "COVID-1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read the mask .*COVID-1\.png"):
        found.items[0].parts()


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no CLASS/masks"):
        read_annotations(str(tmp_path))
