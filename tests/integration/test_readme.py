"""The README and the pages of the site: the quickstart runs as written, and every command, setting and call that they show exists."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import cxr_ray
from cxr_ray import config as configs
from cxr_ray.cli import app as cli
from cxr_ray.cli.commands import ingest, train, tune
from cxr_ray.cli.thresholds import read_thresholds

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?P<tag><!-- tested: once -->\n)?```bash\n(?P<body>.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_COMMANDS = [path for path in PAGES if BLOCK.search(path.read_text(encoding="utf-8"))]
WITH_PYTHON = [path for path in PAGES if "cxr_ray." in "".join(PYTHON.findall(path.read_text(encoding="utf-8")))]
OF_PLUGINS = {"add-a-dataset", "add-a-model", "add-a-loss"}
"""Pages whose commands name what their own file registers: test_plugin_pages.py runs it."""
SECTIONS = "|".join(name for name, field in configs.Config.model_fields.items() if configs.is_section(field))


def commands(body: str) -> list[list[str]]:
    """The arguments of each command of a block, without comments and with continued lines joined."""
    lines = body.replace("\\\n", " ").splitlines()
    return [args for line in lines if (args := shlex.split(line, comments=True))]


def every_command(page: Path) -> list[list[str]]:
    return [args for block in BLOCK.finditer(page.read_text(encoding="utf-8")) for args in commands(block["body"])]


def parse(command: str, args: list[str]) -> None:
    """Parse `args` as `command` does, up to where its work starts. Raises the error that a user would see."""
    _, bound, _ = cli.build(command).parse_args([command, *args], exit_on_error=False, print_error=False)
    given, rest = bound.arguments, bound.arguments.get("words", ())
    if command == "ingest":
        ingest.split_words(rest, dry_run=given.get("dry_run", False))
    elif command in ("train", "tune") and "resume" not in given:
        {"train": train, "tune": tune}[command].read_config(given.get("config"), rest)
    elif command in ("evaluate", "show"):
        read_thresholds(given.get("thresholds"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quickstart_runs_as_written(tmp_path: Path) -> None:
    """One process per command, as a reader would type them; no Ray Train, one Ray for the ingest."""
    blocks = [block for block in BLOCK.finditer(README) if block["tag"]]
    assert len(blocks) == 1
    names = []
    for words in commands(blocks[0]["body"]):
        assert words[0] == "cxr-ray"
        out = subprocess.run(
            [sys.executable, "-m", "cxr_ray", *words[1:]], cwd=tmp_path, capture_output=True, text=True
        )
        assert out.returncode == 0, f"{shlex.join(words)}\n{out.stdout[-2000:]}\n{out.stderr[-2000:]}"
        last = out.stdout.rstrip().splitlines()
        assert last[-1].startswith("next: "), out.stdout
        if "--dry-run" not in words:
            assert any(str(tmp_path) in line for line in last[-3:]), out.stdout
        names.append(words[1])
    assert names == ["phantom", "ingest", "ingest", "verify", "describe", "describe", "describe", "train", "evaluate"]
    assert (tmp_path / "row0.png").stat().st_size > 0
    report = (tmp_path / "runs" / "first" / "report.html").read_text(encoding="utf-8")
    assert "</html>" in report


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda path: path.stem)
def test_every_command_names_existing_commands_flags_presets_and_files(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")  # otherwise an s3 URL asks AWS for its bucket's region
    for words in every_command(page):
        text = shlex.join(words)
        for preset in re.findall(r"preset:([a-z]\w+)", text):
            configs.read_file(f"preset:{preset}")
        for path in re.findall(r"(?:jobs|docs|benchmarks)/[\w./]+", text):
            assert (ROOT / path).exists(), text
        if words[0] == "cxr-ray" and not words[1].startswith("-"):
            assert words[1] in cli.COMMANDS, text
            if page.stem not in OF_PLUGINS:
                parse(words[1], with_a_preset(words[2:]))
        for at, word in enumerate(words):
            if job := re.fullmatch(r"jobs/(\w+)\.py", word):
                assert words.index("--") < at  # the entry point comes last
                parse(job[1], [str(ROOT / w) if w.startswith("jobs/") else w for w in words[at + 1 :]])


def with_a_preset(words: list[str]) -> list[str]:
    """The words of a command, with a preset in place of a config file or a run of the reader's own."""
    if "--from" in words:
        at = words.index("--from")
        words = [*words[:at], "-c", "own.yaml", *words[at + 2 :]]
    return ["preset:demo" if Path(word).suffix == ".yaml" else word for word in words]


def test_the_pages_show_every_command_that_makes_something() -> None:
    shown = {words[1] for page in WITH_COMMANDS for words in every_command(page) if words[0] == "cxr-ray"}
    assert shown >= set(cli.COMMANDS) - {"sources", "models", "completion", "config", "demo"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_setting_that_is_named_exists(page: Path) -> None:
    """A name behind dots is one of a mapping's (`data.uncertain.Edema`); `data.split` is a section."""
    if page.stem == "architecture":  # it names modules
        return
    known = [name for name, _ in configs.settings(configs.Config)]
    named = re.findall(rf"`(?:--)?((?:{SECTIONS})\.[a-z_]+(?:\.\w+)?)", page.read_text(encoding="utf-8"))
    files = {name for name in named if name.rpartition(".")[2] in ("csv", "html", "py", "safetensors")}
    for name in set(named) - files:
        assert any(name == one or name.startswith(f"{one}.") or one.startswith(f"{name}.") for one in known), name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_file_that_is_named_exists(page: Path) -> None:
    """Tests, benchmarks, modules and jobs in backticks; the README's table names benchmarks without their folder."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests|benchmarks|cxr_ray|jobs|docs)/[\w./-]+\.(?:py|md|yaml|toml))", text))
    named |= {f"benchmarks/{name}" for name in re.findall(r"\| `(\w+\.py)` \|", text)}
    assert [name for name in sorted(named) if "PKG" not in name and not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda path: path.stem)
def test_every_call_has_a_name_and_keywords_that_exist(page: Path) -> None:
    for body in PYTHON.findall(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cxr_ray":
                assert node.attr in cxr_ray.__all__, node.attr
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) == "cxr_ray"
            ):
                given = inspect.signature(getattr(cxr_ray, node.func.attr)).parameters
                takes_any = any(p.kind is p.VAR_KEYWORD for p in given.values())
                wrong = [k.arg for k in node.keywords if k.arg is not None and k.arg not in given and not takes_any]
                assert wrong == [], f"{node.func.attr}: {wrong}"


def test_the_head_is_started_with_a_token_and_on_loopback() -> None:
    page = ROOT / "docs" / "how-to" / "cluster.md"
    starts = [words for words in every_command(page) if words[:3] == ["ray", "start", "--head"]]
    assert starts
    assert all(words[words.index("--dashboard-host") + 1] == "127.0.0.1" for words in starts)
    assert ["export", "RAY_AUTH_MODE=token"] in every_command(page)


def test_limitations_are_stated() -> None:
    assert "not a medical device" in README.lower()
