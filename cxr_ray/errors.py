"""Exceptions that end a command with a message for the user, and the text that suggests the nearest known name."""

import re
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


def requirement(message: str) -> str:
    """A validation message of pydantic in the words of our other errors, such as "must be a whole number"."""
    text = re.split(", unable to (?:parse|interpret)|, got a number with", message.removeprefix("Value error, "))[0]
    text = re.sub(r"^(Input|String|Value|Tuple|List) should (be|have)", r"must \2", text)
    for theirs, ours in (
        ("a valid integer", "a whole number"),
        ("a valid number", "a number"),
        ("a valid boolean", "true or false"),
    ):
        text = text.replace(theirs, ours)
    text = re.sub(r"a valid (string|dictionary|list|tuple)", lambda found: PLAIN[found[1]], text)
    return text.replace("Field required", "must be given")


PLAIN = {"string": "text", "dictionary": "a mapping", "list": "a list", "tuple": "a list of values"}
"""Python's types in the words of a config file."""


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
