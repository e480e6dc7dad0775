"""Prints the packages of cxr_ray and which of them each imports, for the block in docs/concepts/architecture.md.

    python docs/packages.py

Reads the source, imports nothing. `tests/integration/test_architecture.py` compares the document with the output. The rules for
imports are in `tests/test_layering.py`.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "cxr_ray"
NOT_DRAWN = ("__init__", "__main__")
"""Modules at the root that may import everything."""


def files_of() -> dict[str, list[Path]]:
    """Files of each package and root module."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name not in NOT_DRAWN:
            found.setdefault(name, []).append(path)
    return found


def imported(path: Path) -> set[str]:
    """Packages and root modules of cxr_ray that a file imports, lazily or not. Imports are absolute (`cxr_ray.data`)."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("cxr_ray.")}


def graph() -> dict[str, set[str]]:
    """Which packages and root modules each package and root module imports."""
    files = files_of()
    return {
        name: set().union(*(imported(path) for path in paths)) & set(files) - {name} for name, paths in files.items()
    }


def levels(arrows: dict[str, set[str]]) -> dict[str, int]:
    """The lowest level of each package: one more than the highest that it imports."""

    def level(name: str) -> int:
        return max((level(other) + 1 for other in arrows[name]), default=0)

    return {name: level(name) for name in arrows}


def drawing() -> str:
    """One line per package, from the highest level to the lowest: the package, and its imports in the same order."""
    arrows = graph()
    level = levels(arrows)
    order = sorted(arrows, key=lambda name: (-level[name], name))
    width = max(map(len, order))
    lines = []
    for name in order:
        targets = " ".join(other for other in order if other in arrows[name])
        lines.append(f"    {name:{width}}  -> {targets}" if targets else f"    {name}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(drawing())
