"""docs/concepts/architecture.md agrees with the source: its drawing of the packages, and the files that it names. Levels: test_layering.py."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "concepts" / "architecture.md").read_text(encoding="utf-8")
LEVELS = re.findall(r"^    (\d+)  (.+)$", DOCUMENT, re.MULTILINE)
MOST_PACKAGES = 24


def printed() -> str:
    script = ROOT / "docs" / "packages.py"
    return subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout


def drawn() -> dict[str, list[str]]:
    """Imports by package, read from the drawing."""
    arrows = re.findall(r"^    (\w+)(?: +-> (.+))?$", printed(), re.MULTILINE)
    return {name: targets.split() for name, targets in arrows}


def test_the_drawing_in_the_document_is_that_of_the_source() -> None:
    block = re.search(r"<!-- packages -->\n\n(.*?\n)\n<!-- end of packages -->", DOCUMENT, re.DOTALL)
    assert block is not None
    assert block[1] == printed(), "copy the output of `python docs/packages.py` to docs/concepts/architecture.md"


def test_every_package_is_drawn_and_its_imports_point_down() -> None:
    arrows = drawn()
    level = {name: int(number) for number, names in LEVELS for name in names.split()}
    assert set(arrows) == set(level)
    assert len(arrows) <= MOST_PACKAGES
    assert [(name, other) for name, others in arrows.items() for other in others if level[other] >= level[name]] == []


def test_the_files_that_the_document_names_exist() -> None:
    named = set(re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|md)|(?:[\w.]+/)+)`", DOCUMENT))
    of_packages = {f"{name}/" for name in drawn()}
    stems = {path.name for path in (ROOT / "cxr_ray").rglob("*.py")}
    on_disk = {".ingest/", "folds/"}
    missing = [
        name
        for name in sorted(named - of_packages - on_disk - stems)
        if "PKG" not in name and not (ROOT / name).exists() and not (ROOT / "cxr_ray" / name).exists()
    ]
    assert missing == []
    assert len(named) > 50
