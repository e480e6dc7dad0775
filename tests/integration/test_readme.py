"""The README: its quickstart runs as written, and all that it names exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ray import config as configs
from cxr_ray.cli import app as cli
from cxr_ray.cli import flags
from cxr_ray.cli.commands import evaluate, ingest, train, tune

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?P<tag><!-- tested: once -->\n)?```bash\n(?P<body>.*?)```", re.DOTALL)


def commands(body: str) -> list[list[str]]:
    """The arguments of each command of a block, without comments and with continued lines joined."""
    lines = body.replace("\\\n", " ").splitlines()
    return [args for line in lines if (args := shlex.split(line, comments=True))]


def every_command() -> list[list[str]]:
    return [args for block in BLOCK.finditer(README) for args in commands(block["body"])]


def parse(command: str, args: list[str]) -> None:
    """Parse `args` as `command` does, up to where its work starts. Raises the error that a user would see."""
    _, bound, _ = cli.build(command).parse_args([command, *args], exit_on_error=False, print_error=False)
    given, rest = bound.arguments, bound.arguments.get("words", ())
    if command == "ingest":
        ingest.split_words(rest, dry_run=given.get("dry_run", False))
    elif command in ("train", "tune") and "resume" not in given:
        {"train": train, "tune": tune}[command].read_config(given.get("config"), rest)
    elif command in ("evaluate", "show"):
        evaluate.read_thresholds(given.get("thresholds"))


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


def test_every_command_names_existing_commands_flags_presets_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")  # otherwise an s3 URL asks AWS for its bucket's region
    seen = set()
    for words in every_command():
        text = shlex.join(words)
        for preset in re.findall(r"preset:(\w+)", text):
            configs.read_file(f"preset:{preset}")
        for path in re.findall(r"jobs/[\w./]+", text):
            assert (ROOT / path).is_file(), text
        if words[0] == "cxr-ray" and not words[1].startswith("-"):
            assert words[1] in cli.COMMANDS, text
            parse(words[1], words[2:])
            seen.add(words[1])
        for at, word in enumerate(words):
            if job := re.fullmatch(r"jobs/(\w+)\.py", word):
                assert words.index("--") < at  # the entry point comes last
                parse(job[1], [str(ROOT / w) if w.startswith("jobs/") else w for w in words[at + 1 :]])
                seen.add(word)
    assert seen >= {"ingest", "train", "tune", "evaluate", "show", "compare", "describe", "jobs/train.py"}
    for setting in re.findall(r"`--([a-z]+\.[a-z_.A-Z]+)", README):
        flags.parse([f"--{setting}", "ones" if "uncertain" in setting else "1"], configs.Config)
    for name in re.findall(r"`(docs/[\w/-]+\.md|constraints\.txt|cluster\.yaml|CHANGELOG\.md|LICENSE)`", README):
        assert (ROOT / name).is_file(), name


def test_the_head_is_started_with_a_token_and_on_loopback() -> None:
    starts = [words for words in every_command() if words[:3] == ["ray", "start", "--head"]]
    assert starts
    assert all(words[words.index("--dashboard-host") + 1] == "127.0.0.1" for words in starts)
    assert ["export", "RAY_AUTH_MODE=token"] in every_command()


def test_limitations_are_stated() -> None:
    assert "not a medical device" in README.lower()
