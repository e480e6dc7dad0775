"""Messages for unknown names: the nearest known name, and a list that stays short."""

import pytest

from cxr_ray.errors import UserError, closest, unknown


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet19", "; did you mean 'resnet18'?"),
        ("RESNET18", "; did you mean 'resnet18'?"),
        ("lennet", "; did you mean 'LeNet'?"),  # the known name is shown as it is spelt
        ("xyz", ""),
    ],
)
def test_the_closest_name_is_found_in_any_case(name: str, hint: str) -> None:
    assert closest(name, ["resnet18", "LeNet"]) == hint


def test_without_known_names_there_is_no_hint() -> None:
    assert closest("resnet18", []) == ""


def test_an_unknown_name_lists_the_known_ones_in_order() -> None:
    error = unknown("model", "resnet19", ["vgg16", "resnet18"], where=" in the sweep")
    assert isinstance(error, UserError)
    assert str(error) == "unknown model 'resnet19' in the sweep; did you mean 'resnet18'? Known: resnet18, vgg16"
    assert str(unknown("model", "xyz", ["vgg16"])) == "unknown model 'xyz'. Known: vgg16"


def test_a_long_list_is_cut_at_forty_names() -> None:
    message = str(unknown("label", "?", [f"label {n:02}" for n in range(45)]))
    assert message.endswith("label 39, ... (45 in all)")
    assert str(unknown("label", "?", [f"label {n:02}" for n in range(40)])).endswith("label 39")
