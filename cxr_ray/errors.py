"""Exceptions that end a command with a message for the user, and the parts of messages: quoted cells, short lists of names, the
nearest known name."""

import re
import unicodedata
from collections.abc import Collection, Iterable
from difflib import get_close_matches

LONGEST_QUOTE = 80
"""Characters of a cell, a name or a path's part in a message."""
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that a message never contains: they could change the terminal, or cannot be printed."""


class UserError(Exception):
    """An error that the user can fix. Its message is one line: what is wrong, where, and how to fix it. Exit code 2.

    Control characters in it are escaped: it may quote a damaged file. Secrets in URLs are masked: it may end in a log."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(printable(message)))


class OutOfMemory(UserError):
    """A batch does not fit the device's memory. It may be raised on one worker only, in the middle of a step."""


class Finished(UserError):
    """The same run has already finished training."""


class Stopped(Exception):
    """The training was asked to stop and has written a checkpoint. Exit code 143."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what remains: a training has written a checkpoint, a job may go on. Exit code 130.

    A KeyboardInterrupt, so that a loop over trainings which goes on after an `Exception` ends too."""


class Notice(UserWarning):
    """A warning of ours about what the user has asked for. A command prints it as a line; libraries' warnings say where in the code."""


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


def printable(text: str) -> str:
    """`text` with control characters and line ends as escapes, such as \\x1b."""
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in INVISIBLE else c for c in text)


def has_secret(url: str) -> bool:
    """Whether `url` contains a password, a key, a token or a signature."""
    return masked(url) != url


def masked(text: str) -> str:
    """`text` with `***` in place of user names and passwords of URLs, and of the values of their parameters that are secrets."""
    if ":/" not in text:
        return text
    return SECRET_PARAMETER.sub(r"\1***", USER_INFO.sub(lambda found: f"{found[1] or found[2]}***@", text))


USER_INFO = re.compile(
    r"(\b[A-Za-z][\w+.-]*:/{1,2})(?!\*\*\*@)[^/\s?#@:]*:[^/\s?#]*@|(\bs3:/{1,2})(?!\*\*\*@)[^/\s?#@]*@"
)
"""A password before the @ of a URL's host, with its user; for S3 also a user alone. In abfs URLs a container stands there. A URL that was
taken for a path has one slash."""
SECRET_PARAMETER = re.compile(
    r"([?&;][\w.%-]*(?:key|token|secret|password|passwd|credential|signature|\bsig)[\w.%-]*=)(?!\*\*\*)[^&\s;,'\")<>]+",
    re.IGNORECASE,
)
"""Parameters of S3, Azure (sig) and presigned URLs (X-Amz-Signature, X-Amz-Credential) that give access."""


def shortened(text: object) -> str:
    """`text` on one line of at most `LONGEST_QUOTE` characters, its end replaced by `...` if it is longer."""
    line = printable(str(text))
    return line if len(line) <= LONGEST_QUOTE else line[: LONGEST_QUOTE - 3] + "..."


def quoted(text: object) -> str:
    """`text` in quotes as Python writes it, at most `LONGEST_QUOTE` characters; a longer one is cut, and its length given."""
    line = repr(str(text))
    if len(line) <= LONGEST_QUOTE:
        return line
    return f"{line[: LONGEST_QUOTE - 4]}...{line[-1]} ({len(str(text)):,} characters)"


def listed(names: Collection[object], *, most: int = 5) -> str:
    """The first `most` names, and the number of all if there are more: `a, b, c, d, e, ... (200 in all)`."""
    shown = ", ".join(shortened(name) for name, _ in zip(names, range(most), strict=False))
    return shown + (f", ... ({len(names):,} in all)" if len(names) > most else "")


def closest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'resnet18'?"`, or an empty string if no known name is similar to `name`."""
    names = [str(k) for k in known]
    by_lower = {k.lower(): k for k in names}
    found = get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {quoted(by_lower[found[0]])}?" if found else ""


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> UserError:
    """The error for an unknown name. It suggests the closest known name and lists up to 40 of them."""
    names = sorted({str(k) for k in known})
    hint = closest(name, names) or "."
    return UserError(f"unknown {kind} {quoted(name)}{where}{hint} Known: {listed(names, most=40)}")
