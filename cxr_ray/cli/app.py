"""Entry point of the command line: finds the command, imports it, and turns exceptions into messages and exit codes.

Exit codes: 0 success, 1 internal error, 2 an error that the user can fix, 130 interrupted (a training: after a
checkpoint), 143 stopped after a checkpoint.
"""

import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cyclopts import App
from cyclopts.exceptions import CycloptsError, MissingArgumentError

from cxr_ray import __version__
from cxr_ray.cli import next_steps
from cxr_ray.cli.command_list import COMMANDS
from cxr_ray.errors import Interrupted, Notice, Stopped, UserError, masked, printable, unknown
from cxr_ray.runtime import garbage
from cxr_ray.storage.atomic import DISK_FULL, NOT_WRITABLE

COMPLETE = "_complete"
"""The hidden command that the shells' completion scripts call."""

ROOT_FLAGS = ("--help", "-h", "--version")

# OS errors that the user can fix: a full disk, missing permissions, a wrong kind of path.
USER_ERRNOS = {*DISK_FULL, *NOT_WRITABLE, errno.ENOTDIR, errno.EISDIR}


def build(chosen: str | None = None) -> App:
    """The app with its commands, none imported. The help of the `chosen` command is its own docstring."""
    app = App(
        name="cxr-ray",
        help="Train chest X-ray classifiers on Ray: ingest images once into Arrow shards, then get every result label by label.",
        help_epilogue="`cxr-ray COMMAND --help` shows all flags. `--debug` (or CXR_RAY_DEBUG=1) shows the traceback of an error.",
        help_format="plaintext",
        suppress_keyboard_interrupt=False,  # main() reports it
        version=__version__,
        version_flags=["--version"],
        help_flags=["--help", "-h"],
    )
    app["--help"].group = app["--version"].group = "Parameters"
    for order, (name, about) in enumerate(COMMANDS.items()):
        app.command(
            f"cxr_ray.cli.commands.{name}:app",
            name=name,
            help=None if name == chosen else about,
            sort_key=order,
        )
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. An error is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == [COMPLETE]:
        from cxr_ray.cli.completion.main import main as complete

        return complete(words[1:])
    debug = "--debug" in words or os.environ.get("CXR_RAY_DEBUG", "") not in ("", "0", "false")
    words = [word for word in words if word != "--debug"]
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    try:
        if words and words[0] not in (*COMMANDS, *ROOT_FLAGS):  # cyclopts would import all commands to report this
            is_flag = words[0].startswith("-")
            raise unknown("flag", words[0], ROOT_FLAGS) if is_flag else unknown("command", words[0], COMMANDS)
        with garbage.starting(), _own_warnings_as_lines():
            result = build(words[0] if words else None)(
                words, exit_on_error=False, print_error=False, result_action="return_value"
            )
        return result if isinstance(result, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Interrupted as end:
        _print_error(next_steps.where_it_lies(str(end)))
        return 130
    except KeyboardInterrupt:
        if debug:
            raise
        _print_error("interrupted")
        return 130
    except Stopped as end:
        _print_error(next_steps.where_it_lies(str(end)))
        return 143
    except BrokenPipeError:  # the reader, such as `head`, has closed its end: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        message = user_message(error)
        if message is not None and isinstance(error, CycloptsError):
            message += f" `cxr-ray {words[0]} --help` shows its arguments and flags."
        if message is not None:
            _print_error(f"error: {message}")
            return 2
        text = one_line(str(error))
        _print_error(
            f"internal error (please report): {type(error).__name__}{': ' + text if text else ''}; "
            "run again with --debug to see the traceback"
        )
        return 1


def user_message(error: BaseException) -> str | None:
    """The message for an error that the user can fix, else None.

    Ray wraps the exceptions of workers, so the causes of `error` are searched too."""
    for inner in _causes(error):
        if type(inner) is UserError or (isinstance(inner, UserError) and not hasattr(inner, "cause")):
            return one_line(str(inner))
    for inner in _causes(error):
        if isinstance(inner, MissingArgumentError) and inner.argument is not None and not inner.keyword:
            command = " ".join(inner.command_chain or ())
            return f"{command} needs {inner.argument.name}, as in: cxr-ray {command} {inner.argument.name}."
        if isinstance(inner, CycloptsError):
            return one_line(str(inner))
        if isinstance(inner, OSError) and inner.errno in USER_ERRNOS:
            return one_line(
                f"{inner.strerror}: {inner.filename or 'the disk'}; fix this and run the same command again"
            )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and all exceptions behind it, breadth first: `__cause__`, and `cause` and `worker_failures` of Ray."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        failures = getattr(current, "worker_failures", None)
        inner = [
            current.__cause__,
            getattr(current, "cause", None),
            *(failures.values() if isinstance(failures, dict) else ()),
        ]
        queue += [e for e in inner if isinstance(e, BaseException)]


def one_line(text: str) -> str:
    """`text` with all whitespace, line breaks included, collapsed to single spaces."""
    return " ".join(text.split())


@contextmanager
def _own_warnings_as_lines() -> Iterator[None]:
    """Print the package's own warnings as the command's other lines, and those of libraries as Python does."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if issubclass(category, Notice):
                print(f"warning: {masked(printable(str(message)))}", file=sys.stderr, flush=True)
            else:
                usual(message, category, *rest, **named)

        warnings.showwarning = show
        yield


def _print_error(line: str) -> None:
    sys.stdout.flush()
    print(f"cxr-ray: {masked(line)}", file=sys.stderr, flush=True)
