"""Exceptions that end a command with a message for the user, and the text that suggests the nearest known name."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An error that the user can fix. Its message is one line: what is wrong, where, and how to fix it. Exit code 2."""


class OutOfMemory(UserError):
    """A batch does not fit the device's memory. It may be raised on one worker only, in the middle of a step."""


class Finished(UserError):
    """The same run has already finished training."""


class Stopped(Exception):
    """The training was asked to stop and has written a checkpoint. Exit code 143."""


def closest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'resnet18'?"`, or an empty string if no known name is similar to `name`."""
    names = [str(k) for k in known]
    by_lower = {k.lower(): k for k in names}
    found = get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[found[0]]!r}?" if found else ""


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> UserError:
    """The error for an unknown name. It suggests the closest known name and lists up to 40 of them."""
    names = sorted(str(k) for k in known)
    listed = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
    hint = closest(name, names) or "."
    return UserError(f"unknown {kind} {name!r}{where}{hint} Known: {listed}")
