"""The command line: help, exit codes, and errors of one line."""

import importlib
import inspect
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cxr_ray import __version__
from cxr_ray.cli import app as cli
from cxr_ray.errors import Notice, UserError


def test_every_command_has_a_module_and_the_same_description_in_both_helps(capsys: pytest.CaptureFixture[str]) -> None:
    for name, about in cli.COMMANDS.items():
        module = importlib.import_module(f"cxr_ray.cli.commands.{name}")
        assert (inspect.getdoc(getattr(module, name)) or "").partition("\n")[0] == about
        assert about.endswith(".")
        assert cli.main([name, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert about in shown
        for argument in module.app.assemble_argument_collection():
            assert not argument.show or argument.names[0].lower() in shown.lower()
    assert sorted(cli.COMMANDS) == sorted(
        path.stem for path in (Path(cli.__file__).parent / "commands").glob("*.py") if path.stem != "__init__"
    )


def test_the_root_help_lists_all_commands_and_is_fast() -> None:
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "cxr_ray", "--help"]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # CPU time, not wall time: other work on the machine must not fail this test.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert all(f" {name} " in out.stdout for name in cli.COMMANDS)
    assert min(seconds) < 0.5, seconds


def test_train_help_and_config_show_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--optim.lr (number; default 0.0001) Highest learning rate." in shown
    assert cli.main(["config", "-c", "preset:covid_binary_notebook", "--optim.lr", "1e-3"]) == 0
    shown = capsys.readouterr().out
    assert "  lr: 0.001 " in shown
    assert "  name: covid_cnn " in shown


def test_version_and_a_call_without_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    assert cli.main([]) == 0
    assert "train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_a_user_error_is_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("cxr-ray: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert "Traceback" not in err


def make_config_raise(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `cxr-ray config` raise `error`."""
    from cxr_ray.cli.commands import config

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(config, "read_config", broken)


def test_an_internal_error_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_config_raise(monkeypatch, ZeroDivisionError("a\nb"))
    assert cli.main(["config"]) == 1
    err = capsys.readouterr().err
    assert err == (
        "cxr-ray: internal error (please report): ZeroDivisionError: a b; run again with --debug to see the traceback\n"
    )
    with pytest.raises(ZeroDivisionError):
        cli.main(["config", "--debug"])
    monkeypatch.setenv("CXR_RAY_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["config"])


def test_an_interrupt_has_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_config_raise(monkeypatch, KeyboardInterrupt())
    assert cli.main(["config"]) == 130
    assert capsys.readouterr().err == "cxr-ray: interrupted\n"


def test_a_full_disk_is_a_user_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import errno

    make_config_raise(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "/out/x"))
    assert cli.main(["config"]) == 2
    err = capsys.readouterr().err
    assert "No space left on device: /out/x; fix this and run the same command again" in err


def test_a_user_error_is_found_behind_the_exceptions_of_ray() -> None:
    """Ray wraps the exception of a worker, sometimes in a class derived from it."""

    class Wrapped(UserError):
        def __init__(self, cause: Exception) -> None:
            super().__init__("ray::task() (pid=1)\n  File ...")
            self.cause = cause

    class Failed(RuntimeError):
        def __init__(self, failures: dict[int, Exception]) -> None:
            super().__init__("training failed")
            self.worker_failures = failures

    assert cli.user_message(Wrapped(UserError("no such label"))) == "no such label"
    assert cli.user_message(Failed({0: Wrapped(UserError("fix this"))})) == "fix this"
    outer = RuntimeError("outer")
    outer.__cause__ = Failed({1: UserError("deep")})
    assert cli.user_message(outer) == "deep"
    assert cli.user_message(RuntimeError("internal")) is None


def test_a_closed_pipe_is_not_an_error() -> None:
    command = f"{sys.executable} -m cxr_ray config | head -1"
    out = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert out.returncode == 0 and out.stdout.startswith("# Every setting with its default.")
    assert "internal error" not in out.stderr
    assert "Traceback" not in out.stderr


def test_warnings_of_the_package_are_lines_and_others_as_python_prints_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(*words: object, **options: object) -> int:
        warnings.warn("look at s3://name:secret@host/here", Notice, stacklevel=1)
        warnings.warn_explicit("divide by zero", RuntimeWarning, cli.__file__, 7)  # NumPy's, in a line of the package
        return 0

    monkeypatch.setattr(cli, "build", lambda chosen: command)
    with pytest.warns(RuntimeWarning) as others:
        assert cli.main(["models"]) == 0
    line = capsys.readouterr().err
    assert line.startswith("warning: look at s3://") and line.count("\n") == 1 and "secret" not in line
    assert [warning.category for warning in others] == [RuntimeWarning]


def test_an_interruption_of_the_first_imports_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text("raise KeyboardInterrupt\n")
    start = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from cxr_ray.cli import main; sys.exit(main(['models']))"
    )
    found = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "cxr-ray: interrupted\n")
