"""Mutation testing: one small random change at a time in a module, tried against the test files that mirror the module.

    python benchmarks/mutations.py [--packages data imaging losses metrics training] [--module data/plan] [--number 200] [--seed 0]
                                   [--list] [--replay INDEX ... | FILE:LINE:KIND ...] [--tests FILE ...]

Prints how many mutations the tests kill, and each that survives. Every mutation (see mutate.py) is applied to a copy of the tree
in a temporary folder, two at a time, each in a process forked from this one, which has imported torch and the like but not cxr_ray.
The same seed, packages and source give the same mutations, and those of `--number 100` are the first 100 of 200. A timeout counts
as killed. `mutations_equivalent.toml` lists mutations that no test could kill; they are not tried.

The tests of cxr_ray/PKG/mod.py are tests/PKG/test_mod.py, else tests/PKG/test_mod_*.py, and those that `MORE_TESTS` names.

Why not a library: mutmut 3 (BSD) and cosmic-ray (MIT) have no seeded sample. mutmut selects tests by tracing a run of the whole suite
and skips decorated functions; cosmic-ray has one test command per session, changes files in the work tree and starts Python for
every mutation.
"""

import argparse
import compileall
import contextlib
import importlib
import os
import py_compile
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import types
from collections.abc import Callable, Container
from pathlib import Path
from typing import NamedTuple, NoReturn

from mutate import Finder, Mutation

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cxr_ray"
EQUIVALENT = Path(__file__).with_name("mutations_equivalent.toml")
PACKAGES = ("data", "imaging", "losses", "metrics", "training")
MORE_TESTS: dict[str, tuple[str, ...]] = {
    "data/loader.py": ("data/test_mixup.py",),
    "data/store.py": ("data/test_store_cache.py",),
    "data/store_format.py": ("data/test_store.py",),
    "metrics/overall.py": ("metrics/test_compute.py",),
    "metrics/per_label.py": ("metrics/test_compute.py",),
    "metrics/ranking.py": ("metrics/test_intervals.py",),
    "metrics/table.py": ("metrics/test_compute.py",),
}
"""Module below cxr_ray to further test files below tests."""
PYTEST = (
    "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0",
    "-m", "not ray and not cluster and not long and not zoo",
)  # fmt: skip
WARM = (
    "torch", "torchvision", "numpy", "pandas", "scipy.stats", "sklearn.metrics", "pyarrow.parquet", "pyarrow.dataset", "PIL.Image",
    "pydantic", "pydicom", "hypothesis", "pytest", "yaml", "safetensors.torch", "ray",
)  # fmt: skip
MEMORY = 12 << 30
"""Bytes of data that a test process may have: a mutated number can ask for any amount."""
CLEAN_LIMIT_S, LEAST_LIMIT_S = 900.0, 60.0


class Job(NamedTuple):
    """Test files to run, over one mutation or over the source as it is."""

    tests: tuple[str, ...]
    mutation: Mutation | None
    limit_s: float


class Outcome(NamedTuple):
    """pytest's exit status (None after a timeout), the seconds, the end of the output."""

    status: int | None
    seconds: float
    output: str


def stop(message: str) -> NoReturn:
    raise SystemExit(f"mutations: {message}")


def module_paths(names: list[str]) -> list[str]:
    """Modules, below cxr_ray, of packages and modules given as `data`, `data/plan`, `data.plan` or `cxr_ray/data/plan.py`."""
    found: set[str] = set()
    for name in names:
        bare = name.removesuffix(".py").replace(".", "/").removeprefix("cxr_ray/")
        file = PACKAGE / f"{bare}.py"
        paths = [file] if file.is_file() else list((PACKAGE / bare).rglob("*.py")) if bare else []
        if not paths:
            stop(f"there is no package or module {name} below {PACKAGE}")
        found |= {path.relative_to(PACKAGE).as_posix() for path in paths}
    return sorted(name for name in found if not name.endswith("__init__.py"))  # those only re-export


def tests_of(module: str) -> tuple[str, ...]:
    """The test files of a module, below the root; ends the program if there are none."""
    path = Path(module)
    folder = ROOT / "tests" / path.parent
    files = [folder / f"test_{path.name}"]
    if not files[0].is_file():  # without test_store_cache.py for store.py, as there is a store_cache.py
        others = {f"test_{file.name}" for file in (PACKAGE / path.parent).glob("*.py")}
        files = [file for file in sorted(folder.glob(f"test_{path.stem}_*.py")) if file.name not in others]
    files = list(dict.fromkeys([*files, *(ROOT / "tests" / name for name in MORE_TESTS.get(module, ()))]))
    if not files or not all(file.is_file() for file in files):
        where = f"{folder.relative_to(ROOT)}/test_{path.name}"
        stop(f"no tests for cxr_ray/{module}: write {where}, or name its test files in MORE_TESTS")
    return tuple(file.relative_to(ROOT).as_posix() for file in files)


def sample(sources: dict[str, bytes], number: int, seed: int, places: Container[str] = ()) -> list[Mutation]:
    """The first `number` valid mutations in an order that the seed gives; or all at places given as MODULE:LINE:KIND."""
    every = sorted(mutation for module, source in sources.items() for mutation in Finder(module, source).found)
    if places:
        every, number = [m for m in every if f"{m.module}:{m.line}:{m.kind}" in places], len(every)
    random.Random(seed).shuffle(every)
    chosen: list[Mutation] = []
    for mutation in every:
        if len(chosen) == number:
            break
        if mutation.valid(sources[mutation.module]):
            chosen.append(mutation)
    return chosen


def warm_up() -> None:
    """Import what the tests import except cxr_ray, under the tests' own environment, so that a fork has it at once."""
    sys.path[0] = str(ROOT)  # not benchmarks/, whose modules have common names
    importlib.import_module("tests.conftest")
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    for name in WARM:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    if "cxr_ray" in sys.modules:
        stop("cxr_ray is imported before the fork")
    if threading.active_count() > 1:
        stop("an import started a thread, which a fork would lose")
    sys.dont_write_bytecode = True  # or a mutation's bytecode could outlive it


def copy_tree(folder: Path) -> Path:
    """The tree as git sees it, with bytecode that is checked against the text of its source, not its time."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(words, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    compileall.compile_dir(folder / "cxr_ray", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return folder


def start(job: Job, folder: Path) -> int:
    """Fork a process that runs the job in a copy of the tree; returns its id, which is its group's too."""
    if job.mutation:
        file = folder / "cxr_ray" / job.mutation.module
        file.write_bytes(job.mutation.apply(file.read_bytes()))
    if child := os.fork():
        return child
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        os.environ.setdefault("CXR_RAY_SHARED", str(ROOT.parent / "shared"))
        sys.modules["__main__"] = types.ModuleType("__main__")  # or a spawned process would run this file
        sys.path[:] = [str(folder), *(path for path in sys.path if Path(path) not in (ROOT, ROOT / "benchmarks"))]
        status = int(sys.modules["pytest"].main([*PYTEST, f"--basetemp={folder.with_suffix('.tmp')}", *job.tests]))
        origin = getattr(sys.modules.get("cxr_ray"), "__file__", None)
        if not job.mutation and not str(origin).startswith(str(folder)):
            print(f"the tests imported cxr_ray from {origin}, not from {folder}")
            status = 3
        sys.stdout.flush()
        os._exit(status)
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
        os._exit(1)


def finish(child: int, job: Job, folder: Path) -> None:
    """End what the process left running, and make the copy as it was."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if job.mutation:
        shutil.copy2(PACKAGE / job.mutation.module, folder / "cxr_ray" / job.mutation.module)
    for left in (folder.with_suffix(".tmp"), folder / ".hypothesis"):
        shutil.rmtree(left, ignore_errors=True)


def run_all(jobs: list[Job], folders: list[Path], report: Callable[[int, Outcome], None]) -> list[Outcome]:
    """Run every job, one at a time in each folder; the outcomes in the order of the jobs."""
    outcomes: dict[int, Outcome] = {}
    waiting, free = list(enumerate(jobs)), list(folders)
    running: dict[int, tuple[int, Job, Path, float]] = {}
    try:
        while waiting or running:
            while waiting and free:
                number, job = waiting.pop(0)
                folder = free.pop()
                running[start(job, folder)] = (number, job, folder, time.monotonic())
            time.sleep(0.05)
            for child, (number, job, folder, since) in list(running.items()):
                ended, status = os.waitpid(child, os.WNOHANG)
                seconds = time.monotonic() - since
                if not ended and seconds < job.limit_s:
                    continue
                finish(child, job, folder)
                if not ended:
                    os.waitpid(child, 0)
                output = folder.with_suffix(".log").read_text(errors="replace")[-6000:]
                outcomes[number] = Outcome(os.waitstatus_to_exitcode(status) if ended else None, seconds, output)
                report(number, outcomes[number])
                del running[child]
                free.append(folder)
    finally:
        for child, (_, job, folder, _) in running.items():
            finish(child, job, folder)
    return [outcomes[number] for number in range(len(jobs))]


def clean_seconds(every: list[tuple[str, ...]], folders: list[Path]) -> dict[tuple[str, ...], float]:
    """How long each set of test files takes over the source as it is; ends the program if one fails."""

    def progress(number: int, outcome: Outcome) -> None:
        print(f"clean: {' '.join(every[number])} {outcome.seconds:.1f} s", file=sys.stderr, flush=True)
        if outcome.status != 0:
            stop(
                f"{' '.join(every[number])} fails (exit status {outcome.status}) without a mutation:\n{outcome.output}"
            )

    outcomes = run_all([Job(tests, None, CLEAN_LIMIT_S) for tests in every], folders, progress)
    return {tests: outcome.seconds for tests, outcome in zip(every, outcomes, strict=True)}


def stripped(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def described(mutation: Mutation, source: bytes) -> str:
    """Where it is, and the lines that it changes."""
    before, after = (
        stripped(text).replace("\n", f"\n{sign} ") for text, sign in zip(mutation.change(source), "-+", strict=True)
    )
    return f"cxr_ray/{mutation.module}:{mutation.line}:{mutation.kind}\n```diff\n- {before}\n+ {after}\n```"


def equivalent(sources: dict[str, bytes]) -> dict[tuple[str, str, str], str]:
    """Reason by module, lines before and lines after; ends the program if an entry fits no mutation."""
    entries = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"] if EQUIVALENT.is_file() else []
    if gone := [e["module"] for e in entries if not (PACKAGE / e["module"]).is_file()]:
        stop(f"{EQUIVALENT.name} names {', '.join(gone)}, which cxr_ray does not have")
    known = {
        (e["module"], stripped(e["original"]), stripped(e["mutated"])): e["reason"]
        for e in entries
        if e["module"] in sources
    }
    for module, before, after in known:
        if (before, after) not in {key_of(m, sources)[1:] for m in Finder(module, sources[module]).found}:
            stop(
                f"{EQUIVALENT.name}: no mutation of {module} changes this line so; remove the entry:\n- {before}\n+ {after}"
            )
    return known


def key_of(mutation: Mutation, sources: dict[str, bytes]) -> tuple[str, str, str]:
    before, after = mutation.change(sources[mutation.module])
    return mutation.module, stripped(before), stripped(after)


def table(tried: list[Mutation], outcomes: list[Outcome], excluded: list[Mutation]) -> str:
    """Markdown: of each module, and of all, how many were tried, killed, and survived."""
    lines = [
        "| module | tried | killed | of them by timeout | survived | equivalent, not tried |",
        "|---|---|---|---|---|---|",
    ]
    for module in [*sorted({mutation.module for mutation in tried + excluded}), None]:
        statuses = [o.status for m, o in zip(tried, outcomes, strict=True) if module in (None, m.module)]
        survived, timeouts = statuses.count(0), statuses.count(None)
        left_out = sum(module in (None, mutation.module) for mutation in excluded)
        cells = (module or "all", len(statuses), len(statuses) - survived, timeouts, survived, left_out)
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--packages", nargs="+", default=list(PACKAGES), metavar="NAME", help="packages or modules below cxr_ray"
    )
    parser.add_argument("--module", nargs="+", metavar="NAME", help="only these modules")
    parser.add_argument("--number", type=int, default=200, help="how many mutations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="how many run at once")
    parser.add_argument("--list", action="store_true", help="print the mutations and run nothing")
    parser.add_argument(
        "--replay", nargs="+", metavar="INDEX|FILE:LINE:KIND", help="run only these, and print pytest's output"
    )
    parser.add_argument(
        "--tests", nargs="+", metavar="FILE", help="run these test files instead of those that mirror the module"
    )
    args = parser.parse_args()
    places = [where.split(":", 1) for where in args.replay or () if ":" in where]
    names = [file for file, _ in places] or args.module or args.packages
    if gone := [module for module in MORE_TESTS if not (PACKAGE / module).is_file()]:
        stop(f"MORE_TESTS names {', '.join(gone)}, which cxr_ray does not have")
    sources = {module: (PACKAGE / module).read_bytes() for module in module_paths(names)}
    sources = {module: source for module, source in sources.items() if Finder(module, source).found}
    tests = {module: tuple(args.tests or tests_of(module)) for module in sources}
    chosen = sample(sources, args.number, args.seed, [f"{module_paths([file])[0]}:{at}" for file, at in places])
    if args.replay and not places:
        chosen = [chosen[int(index) - 1] for index in args.replay]
    known = {} if args.replay else equivalent(sources)
    excluded = [m for m in chosen if key_of(m, sources) in known]
    tried = [m for m in chosen if key_of(m, sources) not in known]
    if not tried:
        stop("no such mutation")
    if args.list:
        print("\n".join(f"{number}. {described(m, sources[m.module])}" for number, m in enumerate(chosen, 1)))
        return

    def progress(number: int, outcome: Outcome) -> None:
        mutation = tried[number]
        result = {0: "survived", None: "timeout"}.get(outcome.status, "killed")
        at = f"cxr_ray/{mutation.module}:{mutation.line}:{mutation.kind}"
        print(f"{number + 1}/{len(tried)} {at} {result} {outcome.seconds:.1f} s", file=sys.stderr, flush=True)

    begun = time.monotonic()
    warm_up()
    with tempfile.TemporaryDirectory(prefix="mutations-") as temporary:
        folders = [copy_tree(Path(temporary) / str(number)) for number in range(args.workers)]
        clean = clean_seconds(sorted({tests[m.module] for m in tried}), folders)
        jobs = [Job(tests[m.module], m, max(LEAST_LIMIT_S, 3 * clean[tests[m.module]])) for m in tried]
        between = time.monotonic()
        outcomes = run_all(jobs, folders, progress)
    if args.replay:
        print("\n".join(f"{described(m, sources[m.module])}\n{o.output}" for m, o in zip(tried, outcomes, strict=True)))
        return
    killed = sum(outcome.status != 0 for outcome in outcomes)
    spent = f"{(time.monotonic() - begun) / 60:.1f} min, {(time.monotonic() - between) / len(tried):.1f} s per mutation"
    print(f"{killed} of {len(tried)} mutations killed ({killed / len(tried):.1%}); seed {args.seed}, {spent}\n")
    print(table(tried, outcomes, excluded), "\n\n## Survived\n", sep="")
    for mutation, outcome in zip(tried, outcomes, strict=True):
        if outcome.status == 0:
            print(f"{chosen.index(mutation) + 1}. {described(mutation, sources[mutation.module])}")
    if excluded:
        print("\n## Equivalent, not tried\n")
    for mutation in excluded:
        print(f"{described(mutation, sources[mutation.module])}\n{known[key_of(mutation, sources)]}")


if __name__ == "__main__":
    main()
