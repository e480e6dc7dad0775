"""Names of files as tables, archives and other systems spell them, and the file on disk that such a name means.

Spellings differ in the Unicode form (macOS decomposes é), in backslashes (archives and tables of Windows), and in bytes that are
not UTF-8 (Latin-1 names), which no table on disk can hold: those are written %F1.
"""

import os
import unicodedata
from pathlib import PurePosixPath


def readable(name: str) -> str:
    """`name` with bytes that are not UTF-8 as %F1: Python has them as single surrogates, which cannot be encoded."""
    if name.isascii():
        return name
    return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in name)


def common_spelling(name: str) -> str:
    """The same for all spellings of a path: readable, composed (NFC), with slashes."""
    if not name.isascii():
        name = unicodedata.normalize("NFC", readable(name))
    return name.replace("\\", "/")


class Spellings:
    """The files below the local folder `root` by the common spelling of their paths. A folder is listed when first needed."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.fspath(root)
        self._entries: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """The path below the root of the only file or folder that `path` may mean, None if there is none or more than one."""
        parts = PurePosixPath(common_spelling(path)).parts
        if not parts or ".." in parts or parts[0] == "/":
            return None
        return self._find("", parts)

    def _find(self, folder: str, parts: tuple[str, ...]) -> str | None:
        entries = self._list(folder)
        for count in range(1, len(parts) + 1):  # a name on disk may contain backslashes: several parts
            name = entries.get("/".join(parts[:count]))
            if name is None:
                continue
            found = f"{folder}/{name}" if folder else name
            inner = self._find(found, parts[count:]) if count < len(parts) else found
            if inner is not None:
                return inner
        return None

    def _list(self, folder: str) -> dict[str, str]:
        """Name on disk by common spelling, of what is in a folder below the root; without names that share a spelling."""
        if folder not in self._entries:
            try:
                names = os.listdir(os.path.join(self._root, folder))  # noqa: PTH118, PTH208
            except OSError:
                names = []
            by_spelling: dict[str, list[str]] = {}
            for name in names:
                by_spelling.setdefault(common_spelling(name), []).append(name)
            self._entries[folder] = {spelling: same[0] for spelling, same in by_spelling.items() if len(same) == 1}
        return self._entries[folder]
