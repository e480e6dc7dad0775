"""What a user is told when something is wrong that they can mend, or has ended before its time."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake the user can mend: one line that says what, where and the mend. The command line ends with exit 2."""


class OutOfMemory(UserError):
    """A batch does not fit a device's memory. One of several workers may find that alone, in the middle of a step."""


class Finished(UserError):
    """The same run was trained to its end before."""


class Stopped(Exception):
    """The training was asked to stop and has written a checkpoint. The command line ends with exit 143."""


def closest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean resnet18?"`, or an empty string where nothing known is near `name`."""
    names = [str(k) for k in known]
    folded = {k.lower(): k for k in names}
    found = get_close_matches(str(name).lower(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[found[0]]!r}?" if found else ""


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> UserError:
    """The error for a name that is not known: names the closest one and lists those there are."""
    names = sorted(str(k) for k in known)
    shown = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
    hint = closest(name, names) or "."
    return UserError(f"unknown {kind} {name!r}{where}{hint} Known: {shown}")
