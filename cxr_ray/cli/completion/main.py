"""What the shells' scripts call: `cxr-ray _complete SHELL WORD ...` prints the candidates for the last word, one a line.

bash gets them quoted and without the part of the word that it keeps; zsh and fish get a tab and a description after each. A
candidate that ends in `/`, `.`, `=` or `:` is to be continued: the scripts add no space."""

import os
import re
import shlex
from collections.abc import Sequence

SHELLS = ("bash", "zsh", "fish")


def main(arguments: Sequence[str]) -> int:
    """Print the candidates. An error prints nothing, since it would end up in the command line; CXR_RAY_DEBUG=1 raises it."""
    from cxr_ray.cli.completion.candidates import complete

    if not arguments or arguments[0] not in SHELLS:
        return 2
    shell, *words = arguments
    try:
        if shell == "bash":
            print("\n".join(_bash(words or [""])))
        else:
            for found in complete(words or [""]):
                print(f"{found.text}\t{found.about}".rstrip("\t"))
    except Exception:
        if os.environ.get("CXR_RAY_DEBUG", "") not in ("", "0", "false"):
            raise
        return 1
    return 0


def _bash(raw: list[str]) -> list[str]:
    """Candidates for bash's own words: quoted as typed, and split at `:` and `=`, which bash treats as ends of words."""
    from cxr_ray.cli.completion.candidates import complete

    words: list[str] = []
    glued, kept = False, 0
    for word in raw:
        breaks = re.fullmatch(r"[:=]+", word) is not None
        if words and (breaks or glued):
            kept = len(words[-1]) + (len(word) if breaks else 0)
            words[-1] += word
        else:
            words.append(word)
            kept = 0
        glued = breaks
    quote = words[-1][:1] if words[-1][:1] in ("'", '"') else ""
    found = complete([_unquote(word) for word in words])
    return [each.text if quote else re.sub(r"([^\w@%+=:,./~-])", r"\\\1", each.text[kept:]) for each in found]


def _unquote(word: str) -> str:
    """A word without its quotes; the last one of a line may lack the closing quote."""
    for closed in (word, word + "'", word + '"'):
        try:
            return "".join(shlex.split(closed))
        except ValueError:
            continue
    return word
