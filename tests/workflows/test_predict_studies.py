"""predict by study: a row per study, combined as an evaluation does, whatever was refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray.errors import UserError
from tests.fakes import archive
from tests.fakes.explained import store, trained
from tests.workflows.test_predict import ROWS, predict


@pytest.mark.parametrize("combine", ["max", "mean"])
def test_by_study(combine: str, tmp_path: Path) -> None:
    archive.dicoms(tmp_path / "dicoms", 6, PatientID="anonymous")
    (tmp_path / "dicoms" / "IM001").write_bytes(b"")  # the second image of the first study
    (tmp_path / "dicoms" / "list.csv").write_text("image\n" + "\n".join(f"IM00{at}" for at in range(6)))
    by_image = predict(trained(), tmp_path / "dicoms" / "list.csv", tmp_path / "image.parquet").table
    found = predict(
        trained(), tmp_path / "dicoms" / "list.csv", tmp_path / "study.parquet", by="study", combine=combine
    ).table
    assert found["image"].tolist() == ["IM000", "IM001", "IM002", "IM004"]  # an empty file has no study
    assert found["images"].tolist() == [1, 0, 2, 2] and found["refused"].tolist()[1] == "empty file"
    prob = archive.probabilities(by_image)
    method = np.max if combine == "max" else np.mean
    wanted = [prob[0], method(prob[2:4], axis=0), method(prob[4:6], axis=0)]
    np.testing.assert_allclose(archive.probabilities(found)[[0, 2, 3]], wanted, atol=1e-6)


def test_by_study_every_refused_image_without_a_study_has_a_row(tmp_path: Path) -> None:
    archive.dicoms(tmp_path / "dicoms", 6)
    for name in ("IM001", "IM002"):
        (tmp_path / "dicoms" / name).write_bytes(b"")
    (tmp_path / "dicoms" / "list.csv").write_text("image\n" + "\n".join(f"IM00{at}" for at in range(6)))
    for ending in ("parquet", "csv"):
        found = predict(
            trained(), tmp_path / "dicoms" / "list.csv", tmp_path / f"o.{ending}", by="study", ids=True
        ).table
        assert found["image"].tolist() == ["IM000", "IM001", "IM002", "IM003", "IM004"]
        assert found["images"].tolist() == [1, 0, 0, 1, 2]
        assert found["study"].isna().tolist() == [False, True, True, False, False] == found["patient"].isna().tolist()


def test_by_study_with_a_row_of_no_study(tmp_path: Path) -> None:
    names = archive.files(tmp_path / "files", 4)
    listed = {
        "image": [*names[:3], "gone.png", "lost.png"],
        "patient": ["p"] * 4 + [None],
        "study": ["7", "7", "8", "8", None],
    }
    pd.DataFrame(listed).to_csv(tmp_path / "files" / "list.csv", index=False)
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    out = tmp_path / "out.parquet"
    found = predict(trained(), tmp_path / "files" / "list.csv", out, by="study", ids=True, hash_key=key).table
    assert found["images"].tolist() == [2, 1, 0] and found["image"].tolist() == [names[0], names[2], "lost.png"]
    assert found["study"].isna().tolist() == [False, False, True] and found["patient"].isna().tolist() == [
        False,
        False,
        True,
    ]


def test_by_study_of_a_store_is_that_of_an_evaluation(tmp_path: Path) -> None:
    found = predict(trained(), store(), tmp_path / "out.parquet", by="study").table
    records = store().index.set_index("row")
    assert len(found) == records["patient"].nunique()
    first, second = archive.expected(ROWS[:2])
    np.testing.assert_allclose(archive.probabilities(found)[0], np.maximum(first, second), atol=1e-5)
    archive.files(tmp_path / "files", 3)
    with pytest.raises(UserError, match="the images have no studies"):
        predict(trained(), tmp_path / "files", tmp_path / "files.parquet", by="study")
    (tmp_path / "films").mkdir()
    for name in (tmp_path / "files").iterdir():  # only the content of such a file tells that it is no DICOM
        name.rename(tmp_path / "films" / f"{name.stem}.dcm")
    with pytest.raises(UserError, match="the images have no studies"):
        predict(trained(), tmp_path / "films", tmp_path / "films.parquet", by="study")
    assert not list(tmp_path.glob("fil*.parquet*"))  # nothing that another prediction would have to be rid of
