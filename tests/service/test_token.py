"""The token: its file is only its owner's, and the header must hold exactly it."""

from pathlib import Path

import pytest

from cxr_ray.errors import UserError
from cxr_ray.service.token import is_authorized, make_token, token_in


def test_a_new_file_is_only_its_owners_and_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    token, made = token_in(file)
    assert made and file.stat().st_mode & 0o777 == 0o600
    assert token_in(file) == (token, False)
    assert token != make_token() != make_token()


def test_a_file_that_others_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    token_in(file)
    file.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        token_in(file)


@pytest.mark.parametrize("content", ["", "short\n", "two words that are long enough\n", "ä" * 20])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(UserError, match="holds no token"):
        token_in(file)


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--token-file"):
        token_in(tmp_path / "none" / "token")


@pytest.mark.parametrize(
    ("header", "right"),
    [
        ("Bearer abcdefgh", True),
        ("bearer abcdefgh", True),
        ("Bearer abcdefgi", False),
        ("Bearer abcdefgh2", False),
        ("Bearer ", False),
        ("abcdefgh", False),
        ("Basic abcdefgh", False),
        ("Bearer äbcdefgh", False),
        ("", False),
        (None, False),
    ],
)
def test_the_header(header: str | None, right: bool) -> None:
    assert is_authorized(header, "abcdefgh") is right
