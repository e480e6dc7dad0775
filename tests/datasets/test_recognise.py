"""The source that a folder looks like, for every fake dataset, and the hint in the errors of other sources."""

from pathlib import Path

import pytest

from cxr_ray import datasets
from cxr_ray.datasets.recognise import MARKS, likely_source
from cxr_ray.errors import UserError
from tests.fakes import chexpert
from tests.fakes.layouts import LAYOUTS


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_dataset_is_recognised(tmp_path: Path, name: str) -> None:
    assert likely_source(LAYOUTS[name](tmp_path / "data")) == (name if name in MARKS else None)


@pytest.mark.parametrize("name", ["image_folder", "nih", "padchest", "covid_radiography"])
@pytest.mark.parametrize("inner", ["", "train"])
def test_chexperts_root_is_refused_with_its_source(tmp_path: Path, name: str, inner: str) -> None:
    root = chexpert.write(tmp_path)
    for number in range(200, 500):
        (root / "train" / f"patient{number:05}" / "study1").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        datasets.load(name, root / inner)
    message = str(caught.value)
    assert message.endswith("; the folder looks like the dataset of the source chexpert: use that one")
    assert message.count("patient") <= 15 and len(message) < 600


def test_the_source_itself_gets_no_hint(tmp_path: Path) -> None:
    root = chexpert.write(tmp_path)
    (root / "train.csv").write_text("Path\n")
    with pytest.raises(UserError) as caught:
        datasets.load("chexpert", root)
    assert "looks like" not in str(caught.value)
