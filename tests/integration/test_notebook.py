"""The tutorials in `docs/tutorials/`: what they import and how they are written. `make docs` executes them, with their own checks."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
FIRST = (ROOT / "docs" / "tutorials" / "first_steps.py").read_text(encoding="utf-8")
SHOWN = {"ingest", "create_model", "train", "evaluate", "tune", "compare", "make_ensemble", "load_predictor"}
STANDARD = {"os", "pathlib", "secrets", "shutil", "socket", "subprocess", "sys", "tempfile", "time", "json"}


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_it_imports_only_cxr_ray_and_what_every_notebook_has(tutorial: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(tutorial.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0
            names.add(node.module)
    assert "cxr_ray" in names  # as a whole: no module of it
    assert {name.split(".")[0] for name in names} <= {"PIL", "cxr_ray", "numpy", "pandas", "torch"} | STANDARD
    assert not [name for name in names if name.startswith("cxr_ray.")]


def test_the_first_one_shows_the_whole_way() -> None:
    nodes = [node for node in ast.walk(ast.parse(FIRST)) if isinstance(node, ast.Attribute)]
    assert {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "cxr_ray"} >= SHOWN
    assert 'store.dataset("train")' in FIRST


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_its_cells_are_those_of_the_percent_format(tutorial: Path) -> None:
    """The last one is hidden on the site: it asserts what the tutorial has shown."""
    first, *cells = re.split(r"^# %%", tutorial.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert first == "" and len(cells) >= 10
    for cell in cells:
        heading, _, body = cell.partition("\n")
        assert heading in ("", " [markdown]", ' tags=["remove-cell"]'), heading
        lines = [line for line in body.splitlines() if line]
        assert lines and all(line.startswith("#") for line in lines) == (heading == " [markdown]"), body
    assert heading == ' tags=["remove-cell"]' and "assert " in body


def test_every_tutorial_is_listed() -> None:
    index = (ROOT / "docs" / "tutorials" / "index.md").read_text(encoding="utf-8")
    assert [path.stem for path in TUTORIALS if f"\n{path.stem}\n" not in index] == []
