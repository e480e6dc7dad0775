"""Tab completion, through the shells themselves where they are installed."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr_ray import cli
from cxr_ray import config as configs
from cxr_ray.cli import flags
from cxr_ray.cli.app import COMMANDS
from cxr_ray.cli.completion import candidates, values
from cxr_ray.cli.config_flags import SHORT
from cxr_ray.registry import SOURCES

ROOT = Path(__file__).resolve().parents[2]


def texts(*words: str) -> list[str]:
    return [found.text for found in candidates.complete(words)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store, a run, a sweep, files, and a `cxr-ray` of this checkout in bin/."""
    monkeypatch.chdir(tmp_path)
    for path, marker, content in (
        ("shards/mine", "manifest.json", {"labels": ["Edema", "Pleural Effusion"], "groups": {"pair": []}}),
        ("runs/first", "run.json", {"labels": ["Edema", "Pleural Effusion"]}),
        ("runs/second", "run.json", {"labels": ["Edema"]}),
        ("runs/sweep", "sweep.json", {}),
        ("my data/x", "manifest.json", {}),
    ):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / marker).write_text(json.dumps(content))
    for name in ("a.yaml", "b.txt", "w.pth", ".hidden.yaml"):
        (tmp_path / name).write_text("")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "cxr-ray"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cxr_ray "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_commands_and_flags() -> None:
    assert texts("") == list(COMMANDS)
    assert texts("tr") == ["train"]
    assert texts("--v") == ["--version"]
    assert texts("unknown", "") == []
    assert texts("evaluate", "x", "--sp") == ["--split"]
    assert texts("evaluate", "--interval") == ["--interval", "--interval-by", "--intervals"]
    for command in COMMANDS:
        assert "--help" in texts(command, "--")
        assert all(found.text.startswith("--") for found in candidates.complete([command, "--"]))


@pytest.mark.parametrize("command", ["train", "tune", "config"])
def test_every_setting_is_reached_section_by_section(command: str) -> None:
    first = texts(command, "--")
    assert set(SHORT) <= set(first) and "--data." in first and "--data.shards" not in first

    def below(prefix: str) -> list[str]:
        found = texts(command, prefix)
        return [name for one in found for name in (below(one) if one.endswith(".") else [one])]

    dotted = [name for name in below("--") if name[2:] in dict(flags.settings(configs.Config))]
    assert sorted(dotted) == sorted(f"--{name}" for name, _ in flags.settings(configs.Config))


def test_choices_of_settings_and_flags() -> None:
    assert texts("train", "--optim.schedule", "") == ["constant", "cosine", "onecycle", "step", "plateau"]
    assert texts("train", "--optim.schedule", "co") == ["constant", "cosine"]
    assert texts("train", "--optim.schedule=co") == ["--optim.schedule=constant", "--optim.schedule=cosine"]
    assert texts("train", "--data.split.by", "im") == ["image"]
    assert texts("train", "--train.gpu", "") == ["auto", "true", "false"]
    assert texts("train", "--train.sync-batch-norm", "t") == ["true"]
    assert texts("train", "--data.uncertain.Edema", "on") == ["ones"]
    assert texts("tune", "--refit", "") == ["none", "best", "folds"]
    assert texts("evaluate", "x", "--split", "t") == ["train", "test"]
    assert texts("ingest", "--depth", "") == ["8", "16"]
    assert texts("completion", "") == ["bash", "zsh", "fish"]
    assert texts("train", "--train.monitor", "val/auroc/") == ["val/auroc/mean"]
    assert texts("train", "--lr", "") == []
    assert "--epochs" in texts("train", "--lr", "1", "")  # one value only: a flag is next
    assert "--labels" not in texts("train", "--optim.decay_norms", "false", "")


def test_names_in_registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert texts("sources", "") == [entry.name for entry in SOURCES]
    assert texts("ingest", "cov") == ["covid_chestxray", "covid_radiography"]
    assert texts("ingest", "image_folder", "a", "b", "--patient-") == ["--patient-regex"]
    assert texts("ingest", "phantom", "a", "b", "--patient-") == []
    for _ in range(2):  # then from the cache
        assert texts("train", "--model", "densenet12") == ["densenet121"]
        assert texts("models", "lene") == ["lenet"]
        assert texts("train", "--loss.name", "fo") == ["focal"]
    cache = tmp_path / "cxr_ray" / "completion" / "model.json"
    cache.write_text(json.dumps({"key": json.loads(cache.read_text())["key"], "names": ["cached"]}))
    assert texts("models", "") == ["cached"]
    cache.write_text(json.dumps({"key": "old", "names": ["cached"]}))
    assert "lenet" in texts("models", "")
    cache.write_text("broken")
    assert "lenet" in texts("models", "")
    assert "auto" in texts("train", "--loss.name", "")


def test_presets_and_paths(folder: Path) -> None:
    assert texts("train", "-c", "") == [
        "preset:", "a.yaml", "bin/", "my data/", "runs/", "shards/",
    ]  # fmt: skip
    assert texts("train", "-c", "preset:dem") == ["preset:demo"]
    assert sorted(texts("tune", "--config=preset:")) == sorted(
        f"--config=preset:{name}" for name in values.preset_names()
    )
    assert set(values.preset_names()) >= {"demo", "chexpert_sweep"}
    assert texts("train", "-c", ".") == [".hidden.yaml"]
    assert texts("train", "--store", "sh") == ["shards/"]
    assert texts("train", "--store", "shards/") == ["shards/mine"]
    assert texts("verify", "")[0] == "shards/mine"
    assert texts("evaluate", "runs/") == ["runs/first", "runs/second", "runs/sweep/"]
    assert texts("show", "") == ["runs/first", "runs/second", "bin/", "my data/", "runs/", "shards/"]
    assert texts("compare", "runs/first", "runs/") == ["runs/second", "runs/sweep/"]
    assert texts("train", "--resume", "runs/f") == ["runs/first"]
    assert texts("tune", "--resume", "runs/s") == ["runs/second/", "runs/sweep"]
    assert texts("train", "--weights", "") == ["none", "imagenet", "runs/first", "runs/second", "bin/", "my data/", "runs/",
                                               "shards/", "w.pth"]  # fmt: skip
    assert texts("evaluate", "runs/first", "--data", "my data/") == ["my data/x"]


def test_labels_of_a_store_and_a_run(folder: Path) -> None:
    line = ["train", "--store", "shards/mine", "--data.labels", "Edema"]
    assert texts(*line, "") == ["all", "pair", "Edema", "Pleural Effusion"]
    assert texts("train", "--store", "shards/mine", "--train.monitor", "val/auroc/") == [
        "val/auroc/mean", "val/auroc/Edema", "val/auroc/Pleural Effusion",
    ]  # fmt: skip
    assert texts("evaluate", "runs/first", "--thresholds", "") == [
        "youden", "f1", "recall=", "specificity=", "Edema=", "Pleural Effusion=",
    ]  # fmt: skip
    assert texts("show", "runs/first", "--labels", "P") == ["Pleural Effusion"]


def in_bash(words: list[str]) -> list[str]:
    """COMPREPLY of bash for these words, as bash itself splits them."""
    script = f"""
        eval "$(cxr-ray completion bash)"
        COMP_WORDS=({" ".join(shlex.quote(word) for word in ["cxr-ray", *words])})
        COMP_CWORD={len(words)}
        "$(complete -p cxr-ray | sed 's/.*-F \\([^ ]*\\).*/\\1/')" cxr-ray "${{COMP_WORDS[COMP_CWORD]}}" ""
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    out = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert out.stderr == ""
    return out.stdout.split("\n")[:-1]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(folder: Path) -> None:
    assert in_bash(["tr"]) == ["train"]
    assert in_bash(["train", "--ep"]) == ["--epochs"]
    assert in_bash(["train", "--optim.sch"]) == ["--optim.schedule"]
    assert in_bash(["train", "--optim.schedule", "cos"]) == ["cosine"]
    assert in_bash(["train", "--optim.schedule", "=", "cos"]) == ["cosine"]  # bash splits at =
    assert in_bash(["train", "-c", "preset", ":", "dem"]) == ["demo"]  # and at :
    assert "demo" in in_bash(["train", "-c", "preset", ":"])
    assert in_bash(["train", "-c", "prese"]) == ["preset:"]
    assert in_bash(["train", "-c", ""])[0] == "preset:"
    assert in_bash(["sources", "chex"]) == ["chexpert"]
    assert in_bash(["evaluate", "runs/f"]) == ["runs/first"]
    assert in_bash(["verify", "my\\ da"]) == ["my\\ data/"]
    assert in_bash(["verify", "'my da"]) == ["my data/"]
    assert in_bash(["evaluate", "runs/first", "--thresholds", "Pl"]) == ["Pleural\\ Effusion="]
    assert in_bash(["nonsense", ""]) == [""]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_tab_in_an_interactive_bash(folder: Path) -> None:
    """A real terminal: the completed line runs."""
    import pty
    import select

    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "dumb", "INPUTRC": "/dev/null", "HISTFILE": "/dev/null"}
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])

    def type_(text: str, until: str) -> None:
        """Type `text`, and wait until the terminal shows `until`."""
        os.write(terminal, text.encode())
        out = ""
        deadline = time.monotonic() + 60
        while until not in out:
            assert time.monotonic() < deadline, out
            if select.select([terminal], [], [], 1)[0]:
                out += os.read(terminal, 4096).decode()

    try:
        type_('eval "$(cxr-ray completion bash)"; echo lo""aded\n', "loaded\r\n")
        type_("cxr-ray config -c preset:dem\t", "preset:demo ")
        type_("--epo\t", "--epochs ")
        type_("7 | grep epochs:\n", "\n  epochs: 7")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes(folder: Path) -> None:
    def in_fish(line: str) -> list[str]:
        script = f"cxr-ray completion fish | source; complete --do-complete {shlex.quote(line)}"
        out = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=True)
        return [one.partition("\t")[0] for one in out.stdout.splitlines()]

    assert in_fish("cxr-ray tr") == ["train"]
    assert in_fish("cxr-ray train --optim.schedule co") == ["constant", "cosine"]
    assert in_fish("cxr-ray train -c preset:dem") == ["preset:demo"]
    assert in_fish("cxr-ray evaluate runs/f") == ["runs/first"]
    assert in_fish("cxr-ray completion ") == ["bash", "fish", "zsh"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_completes(folder: Path) -> None:
    """`compadd` is replaced by a function that prints what it is given, since candidates are otherwise only drawn."""

    def in_zsh(words: list[str]) -> list[str]:
        script = f"""
            compdef() {{ :; }}
            eval "$(cxr-ray completion zsh)"
            compadd() {{ print -rl -- "${{(@P)@[-1]}}"; }}
            words=({" ".join(shlex.quote(word) for word in ["cxr-ray", *words])}); CURRENT={len(words) + 1}
            _cxr_ray
        """
        out = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, check=True)
        assert out.stderr == ""
        return [line for line in out.stdout.splitlines() if line]

    assert in_zsh(["tr"]) == ["train"]
    assert in_zsh(["train", "--optim.schedule", "co"]) == ["constant", "cosine"]
    assert in_zsh(["train", "-c", "preset:dem"]) == ["preset:demo"]
    assert in_zsh(["evaluate", "runs/"]) == ["runs/first", "runs/second", "runs/sweep/"]
    assert in_zsh(["verify", "my\\ da"]) == ["my data/"]


def test_commands_and_settings_load_neither_torch_nor_ray() -> None:
    script = """
import sys
from cxr_ray.cli.completion.candidates import complete
for words in ([""], ["train", "--"], ["train", "--optim."], ["train", "--optim.schedule", ""], ["tune", "--refit", ""],
              ["train", "-c", "preset:"], ["sources", ""], ["evaluate", ""], ["ingest", "phantom", "--"]):
    assert complete(words), words
assert not {"torch", "ray"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_errors_print_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["_complete"]) == 2
    assert cli.main(["_complete", "tcsh", ""]) == 2
    assert cli.main(["_complete", "bash", "verify", "no/such/folder/"]) == 0
    (folder / "runs/first/run.json").write_text("broken")
    assert cli.main(["_complete", "zsh", "show", "runs/first", "--labels", ""]) == 0

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(candidates, "complete", broken)
    assert cli.main(["_complete", "bash", ""]) == 1
    assert capfd.readouterr() == ("\n", "")
    monkeypatch.setenv("CXR_RAY_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli.main(["_complete", "bash", ""])
