"""docs/coming-from/what-does-what.md: its commands parse, its files are those that the commands write, and its patient pattern is that of the tests."""

import re
import shlex

import pytest

from cxr_ray import config as configs
from cxr_ray.cli import app as cli
from cxr_ray.workflows import part_curves
from tests.integration.test_readme import BLOCK, ROOT, commands, parse

TEXT = (ROOT / "docs" / "coming-from" / "what-does-what.md").read_text(encoding="utf-8")
INLINE = [shlex.split(words) for words in re.findall(r"`(cxr-ray \w+ [^`]+)`", TEXT)]
BLOCKS = [words for block in BLOCK.finditer(TEXT) for words in commands(block["body"])]


@pytest.mark.parametrize("words", [*INLINE, *BLOCKS], ids=shlex.join)
def test_every_command_parses(words: list[str]) -> None:
    assert words[0] == "cxr-ray" and words[1] in cli.COMMANDS
    if words[1] == "tune":
        configs.read_file(words[words.index("-c") + 1])
    parse(words[1], words[2:])


def test_every_row_of_the_tables_has_a_command() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) >= 20 and all(line.count("`cxr-ray ") == 1 for line in rows)
    assert f"`{part_curves.FILE}`" in TEXT
