"""The command line: verbs by name, loaded when they are used, and what a user sees when something goes wrong.

Exit codes: 0 done, 2 the user can mend it, 130 interrupted, 143 stopped after a checkpoint, 1 a defect of ours.
"""

import errno
import os
import sys
from collections.abc import Iterator, Sequence

from cyclopts import App
from cyclopts.exceptions import CycloptsError

from cxr_ray import __version__
from cxr_ray.errors import Stopped, UserError, unknown
from cxr_ray.storage.atomic import CLOSED, FULL

# Verb, and its one line of help: the modules are imported only when their verb is called.
COMMANDS = {
    "doctor": "Versions, devices, memory, storage: what would go wrong, and how to mend it.",
    "demo": "Synthetic X-rays through ingest, train and evaluate to a report, with no data and no network.",
    "sources": "The datasets that can be read, and their options.",
    "models": "The models that can be trained, and their options.",
    "ingest": "Decode and resize a dataset once, in parallel, into Arrow shards.",
    "describe": "Label frequency, label vectors, split balance of a store; one image of it in the terminal.",
    "verify": "Check every byte of a store against its checksums.",
    "train": "Train a model on a store, in this process or on Ray.",
    "tune": "Sweep knobs over one store: many trainings, judged label by label on the same rows.",
    "evaluate": "Judge a run on its test part, label by label, and write its report.",
    "show": "A run's parameters and metrics, drawn again at other labels, parts and thresholds.",
    "runs": "The runs in a folder, a line each.",
    "compare": "Runs beside each other on the rows they share: differences with intervals, one page.",
    "phantom": "Write synthetic chest X-rays to disk, in a documented layout.",
    "config": "Every knob with its default and meaning; or a config file, resolved.",
}

ROOT_FLAGS = ("--help", "-h", "--version")

# What the user's machine says no to: theirs to mend, not a defect.
THEIRS = {*FULL, *CLOSED, errno.ENOTDIR, errno.EISDIR}


def build(chosen: str | None = None) -> App:
    """The app with its verbs; imports none of them. The `chosen` verb speaks for itself: its docstring is its help."""
    app = App(
        name="cxr-ray",
        help="Train chest X-ray classifiers on Ray: images once into Arrow shards, every result label by label.",
        help_epilogue="`cxr-ray VERB --help` says more. `--debug` (or CXR_RAY_DEBUG=1) shows the traceback of an error.",
        help_format="plaintext",
        suppress_keyboard_interrupt=False,  # main() tells it
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
    """Run one verb; returns the exit code. A user's mistake is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("CXR_RAY_DEBUG", "") not in ("", "0", "false")
    words = [word for word in words if word != "--debug"]
    try:
        if words and words[0] not in (*COMMANDS, *ROOT_FLAGS):  # cyclopts would import every verb to answer this
            raise (
                unknown("flag", words[0], ROOT_FLAGS)
                if words[0].startswith("-")
                else unknown("verb", words[0], COMMANDS)
            )
        result = build(words[0] if words else None)(
            words, exit_on_error=False, print_error=False, result_action="return_value"
        )
        return result if isinstance(result, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        if debug:
            raise
        _print_error("interrupted")
        return 130
    except Stopped as end:
        _print_error(str(end))
        return 143
    except BrokenPipeError:  # the reader, such as `head`, has gone; nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        told = mistake(error)
        if told is not None:
            _print_error(f"error: {told}")
            return 2
        said = one_line(str(error))
        _print_error(
            f"a defect of cxr_ray: {type(error).__name__}{': ' + said if said else ''}; run again with --debug and report it"
        )
        return 1


def mistake(error: BaseException) -> str | None:
    """What to tell the user about `error` where they can mend it, else None.

    Ray wraps what a worker raised: the user's mistake is looked for behind the wrappers as well."""
    for inner in _behind(error):
        if type(inner) is UserError or (isinstance(inner, UserError) and not hasattr(inner, "cause")):
            return one_line(str(inner))
    for inner in _behind(error):
        if isinstance(inner, CycloptsError):
            return one_line(str(inner))
        if isinstance(inner, OSError) and inner.errno in THEIRS:
            return one_line(
                f"{inner.strerror}: {inner.filename or 'the disk'}; mend that and run the same command again"
            )
    return None


def _behind(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        failures = getattr(one, "worker_failures", None)
        inner = [one.__cause__, getattr(one, "cause", None), *(failures.values() if isinstance(failures, dict) else ())]
        waiting += [e for e in inner if isinstance(e, BaseException)]


def one_line(text: str) -> str:
    """`text` without line breaks and boxes."""
    return " ".join(text.split())


def _print_error(line: str) -> None:
    sys.stdout.flush()
    print(f"cxr-ray: {line}", file=sys.stderr, flush=True)
