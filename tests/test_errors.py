"""Messages for unknown names: the nearest known name, and a list that stays short."""

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from cxr_ray.errors import LONGEST_QUOTE, UserError, closest, listed, masked, quoted, requirement, shortened, unknown


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
    assert str(unknown("label", "x", ["left", "view", "left"])) == "unknown label 'x'. Known: left, view"
    assert str(unknown("model", "xyz", ["vgg16"])) == "unknown model 'xyz'. Known: vgg16"


def test_a_long_list_is_cut_at_forty_names() -> None:
    message = str(unknown("label", "?", [f"label {n:02}" for n in range(45)]))
    assert message.endswith("label 39, ... (45 in all)")
    assert str(unknown("label", "?", [f"label {n:02}" for n in range(40)])).endswith("label 39")


class Section(BaseModel):
    count: int = Field(1, ge=1)
    rate: float = 0.5
    flag: bool = True
    words: list[str] = []
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 1)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"count": "x"}, "must be a whole number"),
        ({"count": 1.5}, "must be a whole number"),
        ({"count": 0}, "must be greater than or equal to 1"),
        ({"rate": "fast"}, "must be a number"),
        ({"flag": "perhaps"}, "must be true or false"),
        ({"words": 3}, "must be a list"),
        ({"kind": "c"}, "must be 'a' or 'b'"),
        ({"pair": (1, 2, 3)}, "must have at most 2 items after validation, not 3"),
        ({"pair": 3}, "must be a list of values"),
    ],
)
def test_validation_messages_use_plain_words(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Section(**values)
    assert requirement(caught.value.errors()[0]["msg"]) == text


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no store at s3://AKIA:geheim@bucket/x; do", "no store at s3://***@bucket/x; do"),
        ("s3://bucket/x?region=eu&secret_key=geheim&scheme=http", "s3://bucket/x?region=eu&secret_key=***&scheme=http"),
        (
            "https://host/x?X-Amz-Credential=geheim&X-Amz-Signature=geheim",
            "https://host/x?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        (
            "https://a.blob.core.windows.net/c?sv=2024&sig=geheim%2F=",
            "https://a.blob.core.windows.net/c?sv=2024&sig=***",
        ),
        ("postgres://me:ge@heim@db/x and s3://k:geheim@b", "postgres://***@db/x and s3://***@b"),
        ("abfs://:geheim@account.dfs.core.windows.net/x", "abfs://***@account.dfs.core.windows.net/x"),
        (
            "/here/s3:/AKIA:geheim@bucket/x?secret_key=geheim is no folder",
            "/here/s3:/***@bucket/x?secret_key=*** is no folder",
        ),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("mail me@host, or see https://host/page?x=1", "mail me@host, or see https://host/page?x=1"),
    ],
)
def test_no_secret_of_a_url_is_shown(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert str(UserError(text)) == shown
    assert "geheim" not in shown and masked(shown) == shown
