"""The command line: help, exit codes, and one line for every mistake."""

import contextlib
import dataclasses
import importlib
import inspect
import io
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ray import __version__
from cxr_ray.cli import app as cli
from cxr_ray.cli.commands import evaluate, ingest
from cxr_ray.datasets import preview
from cxr_ray.errors import UserError
from tests.fakes import image_folder


def test_every_verb_has_its_module_and_says_the_same_in_both_helps(capsys: pytest.CaptureFixture[str]) -> None:
    for name, about in cli.COMMANDS.items():
        module = importlib.import_module(f"cxr_ray.cli.commands.{name}")
        assert inspect.getdoc(getattr(module, name)).splitlines()[0] == about
        assert about.endswith(".")
        assert cli.main([name, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert about in shown
        for argument in module.app.assemble_argument_collection():
            assert not argument.show or argument.names[0].lower() in shown.lower()
    assert sorted(cli.COMMANDS) == sorted(
        path.stem
        for path in (Path(cli.__file__).parent / "commands").glob("*.py")
        if path.stem not in ("__init__", "flags", "progress", "terminal")
    )


def test_root_help_has_a_line_a_verb_and_is_quick() -> None:
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "cxr_ray", "--help"]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time, not the clock's: other work on the machine must not fail this.
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert all(f" {name} " in out.stdout for name in cli.COMMANDS)
    assert min(took) < 0.5, took


def test_train_help_lists_every_knob_and_config_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--optim.lr (number; default 0.0001) Learning rate at its highest." in shown
    assert cli.main(["config", "-c", "preset:covid_binary_notebook", "--optim.lr", "1e-3"]) == 0
    shown = capsys.readouterr().out
    assert "  lr: 0.001 " in shown
    assert "  name: covid_cnn " in shown


def test_version_and_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    assert cli.main([]) == 0
    assert "train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "did you mean 'train'"),
        (["--verson"], "did you mean '--version'"),
        (["train", "--optim.rl", "1"], "did you mean '--optim.lr'"),
        (["train", "--confg", "x"], "did you mean '--config'"),
        (["train", "extra"], "unexpected extra"),
        (["train", "-c", "preset:dem"], "did you mean 'demo'"),
        (["train"], "data.shards"),
        (["config", "--data.labls", "x"], "did you mean '--data.labels'"),
        (["phantom", "x", "--patient", "3"], "--patients"),
        (["phantom", "x", "--patients", "many"], "--patients"),
        (["phantom"], "OUT"),
        (["evaluate", "x", "--split", "tset"], "test"),
        (["evaluate", "x", "--thresholds", "Edema=high"], "LABEL=NUMBER"),
        (["evaluate", "x", "--thresholds", "Edema=2"], "from 0 to 1"),
        (["evaluate", "no/such/run"], "no/such/run"),
        (["describe", "no/such/shards"], "no/such/shards"),
        (["describe", "x", "--save", "a.png"], "--row"),
        (["verify", "no/such/shards"], "no/such/shards"),
        (["sources", "chexprt"], "did you mean 'chexpert'"),
        (["ingest"], "SOURCE ROOT OUT"),
        (["ingest", "chexprt", "a", "b"], "did you mean 'chexpert'"),
        (["ingest", "image_folder", "a"], "SOURCE ROOT OUT"),
        (["ingest", "image_folder", "a", "b", "--patient-rgx", "x"], "'--patient_regex'"),
        (["ingest", "image_folder", "a", "b", "--aspct", "pad"], "'--aspect'"),
        (["ingest", "image_folder", "a", "b", "--aspect", "pda"], "pad"),
        (["ingest", "image_folder", "a", "b", "--size", "0"], "HEIGHTxWIDTH"),
        (["ingest", "image_folder", "a", "b", "--max-rejected", "2"], "--max-rejected"),
        (["ingest", "image_folder", "no/such/root", "b"], "no/such/root"),
        (["ingest", "image_folder", "a", "b", "--report", "c"], "--dry-run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    told = capsys.readouterr()
    assert told.err.startswith("cxr-ray: error: ")
    assert told.err.count("\n") == 1
    assert said in told.err
    assert "Traceback" not in told.err


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    from cxr_ray.cli.commands import config

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(config, "read_config", broken)


def test_a_defect_is_told_as_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fails(monkeypatch, ZeroDivisionError("a\nb"))
    assert cli.main(["config"]) == 1
    err = capsys.readouterr().err
    assert err == "cxr-ray: a defect of cxr_ray: ZeroDivisionError: a b; run again with --debug and report it\n"
    with pytest.raises(ZeroDivisionError):
        cli.main(["config", "--debug"])
    monkeypatch.setenv("CXR_RAY_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["config"])


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fails(monkeypatch, KeyboardInterrupt())
    assert cli.main(["config"]) == 130
    assert capsys.readouterr().err == "cxr-ray: interrupted\n"


def test_a_full_disk_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import errno

    fails(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "/out/x"))
    assert cli.main(["config"]) == 2
    assert "No space left on device: /out/x" in capsys.readouterr().err


def test_the_users_mistake_is_found_behind_wrappers() -> None:
    """Ray raises an error of its own from a worker's, sometimes of a class made of both."""

    class Wrapped(UserError):
        def __init__(self, cause: Exception) -> None:
            super().__init__("ray::task() (pid=1)\n  File ...")
            self.cause = cause

    class Failed(RuntimeError):
        def __init__(self, failures: dict[int, Exception]) -> None:
            super().__init__("training failed")
            self.worker_failures = failures

    assert cli.mistake(Wrapped(UserError("no such label"))) == "no such label"
    assert cli.mistake(Failed({0: Wrapped(UserError("mend this"))})) == "mend this"
    outer = RuntimeError("outer")
    outer.__cause__ = Failed({1: UserError("deep")})
    assert cli.mistake(outer) == "deep"
    assert cli.mistake(RuntimeError("ours")) is None


def test_sizes() -> None:
    assert ingest.read_size("224") == (224, 224)
    assert ingest.read_size("320x256") == (320, 256)
    for wrong in ("", "x", "224x", "-3", "5000", "2.5"):
        with pytest.raises(UserError, match="HEIGHTxWIDTH"):
            ingest.read_size(wrong)


def test_thresholds() -> None:
    assert evaluate.read_thresholds(None) is None
    assert evaluate.read_thresholds(["0.3"]) == 0.3
    assert evaluate.read_thresholds(["Edema=0.2", "Pleural Effusion=.4"]) == {"Edema": 0.2, "Pleural Effusion": 0.4}
    for wrong in (["a"], ["=0.2"], ["0.2", "0.3"], ["-1"], ["Edema=nan"]):
        with pytest.raises(UserError):
            evaluate.read_thresholds(wrong)


def test_ingest_offers_all_its_own_flags() -> None:
    """The names offered on a typo are those that its help lists."""
    assert {"--size", "--hash-patients", "--shard-mib", "--dry-run", "--report", "--help"} <= set(ingest.own_flags())
    with pytest.raises(UserError, match="did you mean '--max-rejected'"):
        ingest.split_words(("image_folder", "a", "b", "--max-rejectd", "1"), dry_run=False)


def test_a_dry_run_tells_the_command_that_makes_this_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied from `next:` it asks for the same ingest, but for --dry-run and its --report."""
    root = image_folder.write(tmp_path / "our films", {"COVID": 2, "Normal": 2})
    asked = ["image_folder", str(root), str(tmp_path / "s"), "--patient-regex", "^(p[0-9]+)_", "--size", "40x32",
             "--aspect", "pad", "--depth", "16", "--where", "image > ''", "--max-rejected", "0.25", "--shard-mib", "8",
             "--hash-patients", "--hash-key", str(tmp_path / "key"), "--address", "auto", "--cpus", "2"]  # fmt: skip
    ran = []
    monkeypatch.setattr(ingest, "run", lambda *what: ran.append(what))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(["ingest", *asked, "--dry-run"]) == 0
    told = said.getvalue().splitlines()[-1].removeprefix("next: cxr-ray ")
    assert cli.main(["ingest", *asked]) == cli.main(shlex.split(told)) == 0
    assert ran[0] == ran[1]
    changed = [f.name for f in dataclasses.fields(ran[0][-1]) if getattr(ran[0][-1], f.name) == f.default]
    assert changed == [], "every field is asked for, so that none can be forgotten"


def test_a_dry_run_tries_the_images_as_the_ingest_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder.write(tmp_path / "films", {"COVID": 2, "Normal": 2})
    tried = []
    monkeypatch.setattr(preview, "decode", lambda *what, **how: tried.append(how))
    ingest.plan("image_folder", root, None, {}, ingest.Ingest(size="32", aspect="center_crop"))
    assert tried and all(how["aspect"] == "center_crop" for how in tried)


def test_source_options_are_found_wherever_they_stand() -> None:
    for words in (
        ("image_folder", "a", "b", "--patient-regex", "(p.)"),
        ("--patient-regex", "(p.)", "image_folder", "a", "b"),
        ("image_folder", "--patient-regex=(p.)", "a", "b"),
    ):
        assert ingest.split_words(words, dry_run=False) == (
            "image_folder",
            Path("a"),
            Path("b"),
            {"patient_regex": "(p.)"},
        )
    assert ingest.split_words(("image_folder", "a"), dry_run=True) == ("image_folder", Path("a"), None, {})


def test_a_closed_pipe_is_no_defect() -> None:
    command = f"{sys.executable} -m cxr_ray.cli config | head -1"
    out = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert "defect" not in out.stderr
    assert "Traceback" not in out.stderr
