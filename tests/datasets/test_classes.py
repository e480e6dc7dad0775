"""Label columns of images that each belong to one class."""

import pytest

from cxr_ray.datasets import class_columns
from cxr_ray.datasets.classes import other_class
from cxr_ray.errors import UserError


@pytest.mark.parametrize(
    "name", ["normal", "Normal", "NO_FINDING", "No findings", "no-findings", "negative", "Healthy"]
)
def test_of_two_classes_the_unremarkable_one_is_negative(name: str) -> None:
    task, columns = class_columns([name, "Covid", "Covid"], [name, "Covid"])
    assert task == "binary"
    assert {k: v.tolist() for k, v in columns.items()} == {"Covid": [0.0, 1.0, 1.0]}


def test_ambiguous_classes_need_the_option_positive() -> None:
    for classes, which in ((["Viral", "Bacterial"], "neither"), (["normal", "healthy"], "each")):
        with pytest.raises(UserError) as caught:
            class_columns(classes, classes)
        first, second = sorted(classes)
        assert str(caught.value) == (
            f"which class is the finding? {which} of {first!r} and {second!r} is called normal, no finding, negative or "
            "healthy; choose it with --positive NAME"
        )
        task, columns = class_columns(classes, classes, positive=classes[0])
        assert task == "binary" and {k: v.tolist() for k, v in columns.items()} == {classes[0]: [1.0, 0.0]}


def test_positive_must_be_one_of_two_classes() -> None:
    with pytest.raises(UserError, match="unknown class 'Covd' for --positive; did you mean 'Covid'"):
        class_columns(["Covid", "normal"], ["Covid", "normal"], positive="Covd")
    with pytest.raises(UserError, match="--positive is for two classes; there are 3: a, b, c; remove --positive"):
        class_columns(["a", "b", "c"], ["a", "b", "c"], positive="a")


def test_label_names_are_safe_and_do_not_collide() -> None:
    names = ["a/b", "c.d", "e\n\x1b[1m", "\x85f"]
    task, columns = class_columns(names, names)
    assert task == "multiclass" and list(columns) == ["a_b", "c_d", "e  [1m", "f"]
    with pytest.raises(
        UserError, match=r"^two classes have the same label name: a\.b, a/b, c \(.*\); rename one of them"
    ):
        class_columns(["a/b", "a.b", "c"], ["a/b", "a.b", "c"])


def test_the_class_without_a_column_is_named() -> None:
    assert other_class(["COVID", "No finding"], ["COVID"]) == "No finding"
    assert other_class(["COVID", "a/b"], ["COVID"]) == "a_b"
    assert other_class(["a", "b", "c"], ["a", "b", "c"]) is None and other_class(["a"], ["a"]) is None
