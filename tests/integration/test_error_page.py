"""docs/reference/errors.md: the messages that it explains are those of the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
MESSAGES = [
    message for cell in re.findall(r"^\| (`.+?) \| ", PAGE, re.MULTILINE) for message in re.findall(r"`([^`]+)`", cell)
]
PLACEHOLDER = re.compile(r"\.\.\.|'[^']*'|\b[A-Z]{2,}\b(?!\s*\()|\b[NM]\b|0\.01|flag --|manifest\.json|\(exit 143\)")
"""What stands for a value of the user, or comes from a constant."""


def texts() -> str:
    """Every string of the code, the values within it left out."""
    found = []
    for path in (ROOT / "cxr_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                )
    return "\n".join(found)


TEXTS = texts()


@pytest.mark.parametrize("message", MESSAGES)
def test_the_words_of_a_message_are_in_the_code(message: str) -> None:
    pieces = [piece.strip(" :;,()") for piece in PLACEHOLDER.split(message)]
    pieces = [piece for piece in pieces if len(piece) > 3]
    assert pieces
    assert [piece for piece in pieces if piece not in TEXTS] == []


def test_the_page_has_messages() -> None:
    assert len(MESSAGES) > 40
