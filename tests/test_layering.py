"""The floors of the house: imports point only downward, in no circle, and `ray` stays in its room."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cxr_ray"

# Module, or package with everything below it, to its floor. A module may import from its own floor and from lower ones.
FLOORS = {
    "cxr_ray": 0,
    "cxr_ray.errors": 0,
    "cxr_ray.places": 0,
    "cxr_ray.durable": 0,
    "cxr_ray.lease": 0,
    "cxr_ray.registry": 0,
    "cxr_ray.config": 0,
    "cxr_ray.labels": 0,
    "cxr_ray.images": 0,
    "cxr_ray.dicom": 0,
    "cxr_ray.sources": 1,
    "cxr_ray.phantom": 1,
    "cxr_ray.copies": 1,
    "cxr_ray.shards": 1,
    "cxr_ray.splits": 1,
    "cxr_ray.leaks": 1,
    "cxr_ray.plan": 1,
    "cxr_ray.batches": 1,
    "cxr_ray.augment": 1,
    "cxr_ray.mixup": 1,
    "cxr_ray.dry_run": 1,
    "cxr_ray.space": 1,
    "cxr_ray.describe": 1,
    "cxr_ray.burnt": 1,
    "cxr_ray.models": 2,
    "cxr_ray.losses": 2,
    "cxr_ray.pairwise": 2,
    "cxr_ray.optim": 2,
    "cxr_ray.precision": 2,
    "cxr_ray.memory": 2,
    "cxr_ray.metrics": 2,
    "cxr_ray.context": 2,
    "cxr_ray.watch": 2,
    "cxr_ray.judging": 2,
    "cxr_ray.kept": 2,
    "cxr_ray.engine": 2,
    "cxr_ray.history": 2,
    "cxr_ray.learner": 2,
    "cxr_ray.checkpoints": 2,
    "cxr_ray.distributed": 2,
    "cxr_ray.runs": 2,
    "cxr_ray.sweeps": 2,
    "cxr_ray.ensembles": 2,
    "cxr_ray.trackers": 2,
    "cxr_ray.predictor": 3,
    "cxr_ray.rivals": 3,
    "cxr_ray.evaluate": 3,
    "cxr_ray.compare": 3,
    "cxr_ray.external": 3,
    "cxr_ray.winner": 3,
    "cxr_ray.report": 3,
    "cxr_ray.on_ray": 4,
    "cxr_ray.verbs": 5,
    "cxr_ray.cli": 5,
}
RAY_ROOM = "cxr_ray.on_ray"

# Rooms that a table is read in, or a report written: torch would cost each of them seconds.
NO_TORCH = [
    "cxr_ray",
    "cxr_ray.cli",
    "cxr_ray.sources",
    "cxr_ray.shards",
    "cxr_ray.plan",
    "cxr_ray.metrics",
    "cxr_ray.runs",
    "cxr_ray.report",
]


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, text: str, known: set[str], *, is_package: bool = False) -> list[tuple[str, int, bool]]:
    """What a module imports: (module, line, whether it happens when the module itself is imported)."""
    found: list[tuple[str, int, bool]] = []

    def visit(node: ast.AST, at_import: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, child.lineno, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    here = name.split(".") if is_package else name.split(".")[:-1]
                    here = here[: len(here) - child.level + 1]
                    base = ".".join([*here, *([base] if base else [])])
                for alias in child.names:  # `from cxr_ray import plan` imports the module cxr_ray.plan
                    inner = f"{base}.{alias.name}"
                    found.append((inner if inner in known else base, child.lineno, at_import))
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            visit(child, at_import and not inside and not typing_only)

    visit(ast.parse(text), True)
    return found


def floor(name: str) -> int | None:
    """The floor of a module: its own entry, or the nearest package's above it (the root's stands for itself alone)."""
    while name:
        if name in FLOORS:
            return FLOORS[name]
        name = name.rpartition(".")[0]
        if name == "cxr_ray":
            return None
    return None


def complaints(sources: dict[str, str], packages: set[str]) -> list[str]:
    """What breaks the rules in modules given as text."""
    known = set(sources)
    said = []
    graph: dict[str, set[str]] = {}
    for name, text in sources.items():
        mine = floor(name)
        if mine is None:
            said.append(f"{name} has no floor: give it a floor in tests/test_layering.py")
            continue
        for target, line, at_import in imports(name, text, known, is_package=name in packages):
            if target.split(".")[0] == "ray" and name.split(".")[:2] != RAY_ROOM.split("."):
                said.append(f"{name}:{line} imports {target}; ray belongs in {RAY_ROOM}")
            if target.split(".")[0] != "cxr_ray":
                continue
            theirs = floor(target)
            if theirs is not None and theirs > mine:
                said.append(f"{name}:{line} (floor {mine}) imports {target} (floor {theirs}): imports point downward")
            # A module inside a package may use the package's own names; the package's face may import its parts.
            if at_import and target in known and target != name:
                graph.setdefault(name, set()).add(target)
    return said + [f"circle: {' -> '.join(circle)}" for circle in circles(graph)]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Rings of module-level imports, each told once."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            ring = path[path.index(name) :]
            if not any(set(ring) == set(old[:-1]) for old in found):
                found.append([*ring, name])
            return
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            walk(target, [*path, name])
        done.add(name)

    for name in sorted(graph):
        walk(name, [])
    return found


def test_imports_point_downward_without_circles_and_ray_stays_in_its_room() -> None:
    found = modules()
    packages = {name for name, path in found.items() if path.name == "__init__.py"}
    assert complaints({name: path.read_text(encoding="utf-8") for name, path in found.items()}, packages) == []


def test_no_floor_is_kept_for_a_module_that_is_gone() -> None:
    assert sorted(set(FLOORS) - set(modules())) == []


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ({"cxr_ray.plan": "from cxr_ray import engine", "cxr_ray.engine": ""}, "imports point downward"),
        ({"cxr_ray.plan": "def f():\n    import cxr_ray.engine as e", "cxr_ray.engine": ""}, "imports point downward"),
        (
            {"cxr_ray.metrics.table": "from ..report import plots", "cxr_ray.report": "", "cxr_ray.report.plots": ""},
            "imports point downward",
        ),
        ({"cxr_ray.plan": "import cxr_ray.shards", "cxr_ray.shards": "from cxr_ray.plan import x"}, "circle"),
        ({"cxr_ray.engine": "import ray.train"}, "ray belongs in"),
        ({"cxr_ray.verbs.train": "def f():\n    import ray"}, "ray belongs in"),
        ({"cxr_ray.brand_new": ""}, "give it a floor"),
    ],
)
def test_the_rules_catch_what_they_are_for(sources: dict[str, str], said: str) -> None:
    """Without this, a reader that finds nothing would pass for a house in order."""
    assert [line for line in complaints(sources, set()) if said in line]


@pytest.mark.parametrize(
    "sources",
    [
        {"cxr_ray.engine": "from cxr_ray import plan", "cxr_ray.plan": ""},
        {"cxr_ray.plan": "import cxr_ray.shards", "cxr_ray.shards": "def f():\n    from cxr_ray.plan import x"},
        {"cxr_ray.on_ray.train": "import ray"},
        {"cxr_ray.plan": "import raylib"},
    ],
)
def test_the_rules_let_pass_what_is_allowed(sources: dict[str, str]) -> None:
    assert complaints(sources, set()) == []


def test_jobs_import_only_the_command_line() -> None:
    for path in sorted((ROOT / "jobs").glob("*.py")):
        targets = {target for target, _, _ in imports(path.stem, path.read_text(encoding="utf-8"), {"cxr_ray.cli"})}
        assert {t for t in targets if t.split(".")[0] == "cxr_ray"} == {"cxr_ray.cli"}, path.name


def loaded_after(code: str) -> set[str]:
    """Which heavy packages are imported after `code` ran in a fresh interpreter."""
    heavy = ("torch", "ray", "pandas", "matplotlib")
    text = f"import sys\n{code}\nprint('LOADED', *[m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(out.stdout.splitlines()[-1].split()[1:])


def test_importing_the_package_and_asking_for_help_loads_nothing_heavy() -> None:
    assert loaded_after("import cxr_ray, cxr_ray.config, cxr_ray.registry") == set()
    assert loaded_after("from cxr_ray.cli import main\nmain(['--help'])") == set()


def test_rooms_that_need_no_torch_load_none() -> None:
    code = "; ".join(f"import {name}" for name in NO_TORCH)
    assert loaded_after(code) & {"torch", "ray"} == set()


def test_the_floors_in_the_document_are_these() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = {
        f"cxr_ray.{name}": int(level)
        for level, names in re.findall(r"^    L(\d)  (.+)$", text, re.MULTILINE)
        for name in names.split()
    }
    assert told == {name: level for name, level in FLOORS.items() if name != "cxr_ray"}
