"""The package layout: imports point downward between packages, in no circle, and `ray` is imported in `on_ray/` alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cxr_ray"

# The lowest first. A module may import from its own package and from packages on lower levels, never from a package on its own.
LEVELS = (
    ("errors",),
    ("registry", "config", "labels", "storage", "runtime"),
    ("imaging", "models", "losses", "metrics"),
    ("data", "plotting"),
    ("datasets", "runs"),
    ("training", "inference"),
    ("evaluation", "explanation", "tuning", "service"),
    ("report", "on_ray"),
    ("workflows",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
AT_THE_ROOT = {"__init__", "__main__", "errors", "registry", "labels"}
RAY_PACKAGE = "on_ray"
LONGEST = 450
"""Lines of a file: a longer one usually has two subjects."""

# Packages that read tables or write reports: importing torch would cost each of them seconds.
NO_TORCH = [
    "cxr_ray",
    "cxr_ray.cli",
    "cxr_ray.datasets",
    "cxr_ray.data.store",
    "cxr_ray.data.plan",
    "cxr_ray.metrics",
    "cxr_ray.runs",
    "cxr_ray.tuning.sweep",
    "cxr_ray.report.run_page",
]


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, text: str, known: set[str], *, is_package: bool = False) -> list[tuple[str, int]]:
    """What a module imports, lazily or not: (module, line)."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if is_package else name.split(".")[:-1]
                here = here[: len(here) - node.level + 1]
                base = ".".join([*here, *([base] if base else [])])
            for alias in node.names:  # `from cxr_ray.data import plan` imports the module cxr_ray.data.plan
                inner = f"{base}.{alias.name}"
                found.append((inner if inner in known else base, node.lineno))
    return found


def package_of(name: str) -> str:
    """`data` of `cxr_ray.data.plan`; nothing of the root itself."""
    return name.split(".")[1] if "." in name else ""


def complaints(sources: dict[str, str], packages: set[str]) -> list[str]:
    """What breaks the rules in modules given as text. The root's own lazy `__init__`, and `__main__`, may import anything."""
    known = set(sources)
    found = []
    graph: dict[str, set[str]] = {}
    for name, text in sources.items():
        mine = package_of(name)
        if mine in ("", "__main__"):
            continue
        if mine not in LEVEL:
            found.append(f"{name}: the package {mine} has no level: add it to LEVELS in tests/test_layering.py")
            continue
        for target, line in imports(name, text, known, is_package=name in packages):
            if target.split(".")[0] == "ray" and mine != RAY_PACKAGE:
                found.append(f"{name}:{line} imports {target}; ray belongs in cxr_ray.{RAY_PACKAGE}")
            if target.split(".")[0] != "cxr_ray" or not package_of(target):
                continue
            theirs = package_of(target)
            if theirs != mine and LEVEL.get(theirs, -1) >= LEVEL[mine]:
                found.append(f"{name}:{line} imports {target}: imports point to lower packages")
            if target in known and target != name:
                graph.setdefault(name, set()).add(target)
    return found + [f"circle: {' -> '.join(circle)}" for circle in circles(graph)]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Circles of imports, each listed once."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            loop = path[path.index(name) :]
            if not any(set(loop) == set(old[:-1]) for old in found):
                found.append([*loop, name])
            return
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            walk(target, [*path, name])
        done.add(name)

    for name in sorted(graph):
        walk(name, [])
    return found


def test_imports_point_downward_without_circles_and_ray_stays_in_its_package() -> None:
    found = modules()
    packages = {name for name, path in found.items() if path.name == "__init__.py"}
    assert complaints({name: path.read_text(encoding="utf-8") for name, path in found.items()}, packages) == []


def test_levels_name_packages_that_exist() -> None:
    assert sorted(set(LEVEL) - {package_of(name) for name in modules()}) == []


def test_only_these_modules_lie_at_the_root() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == AT_THE_ROOT


def test_no_file_is_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("cxr_ray", "jobs")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert long == {}


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ({"cxr_ray.data.plan": "from cxr_ray.runs import run", "cxr_ray.runs.run": ""}, "imports point to lower packages"),
        ({"cxr_ray.data.plan": "def f():\n    import cxr_ray.runs.run as e", "cxr_ray.runs.run": ""}, "imports point to lower packages"),
        ({"cxr_ray.training.build": "from cxr_ray.inference import predictor"}, "imports point to lower packages"),
        (
            {"cxr_ray.metrics.table": "from ..report import render", "cxr_ray.report": "", "cxr_ray.report.render": ""},
            "imports point to lower packages",
        ),
        ({"cxr_ray.data.plan": "import cxr_ray.data.store", "cxr_ray.data.store": "from cxr_ray.data.plan import x"}, "circle"),
        ({"cxr_ray.data.plan": "import cxr_ray.data.store", "cxr_ray.data.store": "def f():\n    from cxr_ray.data.plan import x"}, "circle"),
        ({"cxr_ray.training.trainer": "import ray.train"}, "ray belongs in"),
        ({"cxr_ray.cli.commands.train": "def f():\n    import ray"}, "ray belongs in"),
        ({"cxr_ray.brand_new": ""}, "has no level"),
    ],
)  # fmt: skip
def test_the_rules_catch_what_they_are_for(sources: dict[str, str], complaint: str) -> None:
    """Without this, a reader that finds nothing would pass for an orderly package."""
    assert [line for line in complaints(sources, set()) if complaint in line]


@pytest.mark.parametrize(
    "sources",
    [
        {"cxr_ray.training.trainer": "from cxr_ray.data import plan", "cxr_ray.data.plan": ""},
        {"cxr_ray.data.plan": "import cxr_ray.data.store", "cxr_ray.data.store": ""},
        {"cxr_ray": "from cxr_ray.cli import main", "cxr_ray.cli": "from cxr_ray import __version__"},
        {"cxr_ray.on_ray.train": "import ray"},
        {"cxr_ray.data.plan": "import raylib"},
    ],
)
def test_the_rules_let_pass_what_is_allowed(sources: dict[str, str]) -> None:
    assert complaints(sources, set()) == []


def test_jobs_import_only_the_command_line() -> None:
    for path in sorted((ROOT / "jobs").glob("*.py")):
        targets = {target for target, _ in imports(path.stem, path.read_text(encoding="utf-8"), {"cxr_ray.cli"})}
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


def test_packages_that_need_no_torch_load_none() -> None:
    code = "; ".join(f"import {name}" for name in NO_TORCH)
    assert loaded_after(code) & {"torch", "ray"} == set()


def test_the_levels_in_the_document_are_these() -> None:
    text = (ROOT / "docs" / "concepts" / "architecture.md").read_text(encoding="utf-8")
    documented = re.findall(r"^    \d+  (.+)$", text, re.MULTILINE)
    assert [tuple(line.split()) for line in documented] == list(LEVELS)
