"""What a dataset declares: only labels and task are required, and unknown fields are refused."""

import pytest
from pydantic import ValidationError

from cxr_ray.data.info import DatasetInfo


def test_only_labels_and_task_are_required() -> None:
    info = DatasetInfo(labels=("Edema",), task="binary")
    assert info.model_dump() == {
        "labels": ("Edema",), "task": "binary", "groups": {}, "filters": (), "default_labels": (), "features": (),
        "notes": (),
    }  # fmt: skip
    for missing, given in (("labels", {"task": "binary"}), ("task", {"labels": ("Edema",)})):
        with pytest.raises(ValidationError, match=f"{missing}\n  Field required"):
            DatasetInfo.model_validate(given)


def test_an_unknown_field_or_task_is_refused_and_nothing_can_be_changed() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        DatasetInfo.model_validate({"labels": ("Edema",), "task": "binary", "lables": ("Edema",)})
    with pytest.raises(ValidationError, match="Input should be 'multilabel', 'multiclass' or 'binary'"):
        DatasetInfo.model_validate({"labels": ("Edema",), "task": "regression"})
    with pytest.raises(ValidationError, match="Instance is frozen"):
        DatasetInfo(labels=("Edema",), task="binary").task = "multilabel"  # type: ignore[misc]
