"""Messages for unknown names: the nearest known name, and a list that stays short."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.errors import LONGEST_QUOTE, UserError, closest, listed, quoted, shortened, unknown


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


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_cells_in_messages_are_short_and_have_no_control_characters(text: str) -> None:
    message = str(UserError(f"{quoted(text)} {shortened(text)}"))
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in message)
    message.encode("utf-8")  # can be printed
    assert len(shortened(text)) <= LONGEST_QUOTE
    suffix = f" ({len(text):,} characters)"
    assert quoted(text) == repr(text) or len(quoted(text).removesuffix(suffix)) <= LONGEST_QUOTE


def test_a_list_of_many_names_is_five_and_a_count() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([f"patient{n:05}" for n in range(1, 1201)]) == (
        "patient00001, patient00002, patient00003, patient00004, patient00005, ... (1,200 in all)"
    )
    assert listed(["x" * 300]) == "x" * 77 + "..."


def test_a_message_escapes_what_could_change_the_terminal() -> None:
    assert (
        str(UserError("row 1: \x1b[31m\x00 H\xf6he \udcff \u202e")) == "row 1: \\x1b[31m\\x00 H\xf6he \\udcff \\u202e"
    )
    assert str(UserError("two\nlines")) == r"two\nlines"
