"""What people read uses the field's standard terms: identifiers, comments, docstrings, messages, pages and documentation."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = ROOT / "tests" / "wording_allowed.txt"

# Words of an earlier private dialect, in any form.
ANYWHERE = re.compile(r"^(mend(s|ed|ing|able)?|judg\w*|rival\w*|anew|knobs?|told)$", re.IGNORECASE)
# Words that are fine in a sentence, and vague as a name or a part of one.
AS_A_NAME = re.compile(r"^(held|beside|verbs?)$", re.IGNORECASE)

PYTHON = ("cxr_ray", "jobs", "benchmarks", "tests", "docs")
PAGES = ("*.html", "*.js", "*.css", "*.md", "*.yaml", "*.toml", "Makefile")


def words_of(text: str) -> list[str]:
    """`_judged_at`, `JudgedRow` and `judged-at` in words."""
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)


def allowed() -> tuple[set[str], set[str]]:
    """(names, text): keys, columns and file names on disk that stay as they are: one a line, a comment behind `#`; a line that begins
    with `name:` allows an identifier."""
    lines = [line.partition("#")[0].strip() for line in ALLOWED.read_text(encoding="utf-8").splitlines()]
    names = {line.removeprefix("name:") for line in lines if line.startswith("name:")}
    return names, {line for line in lines if line} - {f"name:{name}" for name in names}


def complaints(path: Path, text: str, known: tuple[set[str], set[str]]) -> list[str]:
    """Lines of a file that use a word of the old dialect."""
    found: list[str] = []
    names, keys = known
    # A key counts as one where it is quoted: in backticks or quotes, behind a dot or bracket, or before a YAML colon.
    quoted = [
        re.compile(rf"(?:(?<=[`\"'.\[(/-])|^\s*){re.escape(key)}(?=[`\"'\]:.)/ -]|$)") for key in sorted(keys, key=len)
    ]

    def look(line: int, piece: str, *, name: bool) -> None:
        rest = piece
        if name and piece in names:
            return
        for pattern in () if name else reversed(quoted):
            rest = pattern.sub("", rest)
        where = f"{path.relative_to(ROOT)}:{line}"
        shown = " ".join(piece.split())[:100]
        found.extend(
            f"{where}: {word} in {shown!r}"
            for word in words_of(rest)
            if ANYWHERE.match(word) or (name and AS_A_NAME.match(word))
        )

    if path.suffix != ".py":
        for number, line in enumerate(text.splitlines(), start=1):
            look(number, line, name=False)
        return found
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            look(token.start[0], token.string, name=True)
        elif token.type == tokenize.COMMENT:
            look(token.start[0], token.string, name=False)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            look(node.lineno, node.value, name=False)
        elif isinstance(node, ast.JoinedStr):  # names inside, which Python 3.11 does not tokenize
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name):
                    look(node.lineno, inner.id, name=True)
                elif isinstance(inner, ast.Attribute):
                    look(node.lineno, inner.attr, name=True)
    return list(dict.fromkeys(found))


def files() -> dict[str, list[Path]]:
    """What is read, by the folder that it lies in."""
    skipped = {Path(__file__).resolve(), ALLOWED}
    found: dict[str, list[Path]] = {}
    python = [path for folder in PYTHON for path in (ROOT / folder).rglob("*.py")]
    pages = [
        path
        for pattern in PAGES
        for path in [*ROOT.glob(pattern), *(p for f in PYTHON for p in (ROOT / f).rglob(pattern))]
    ]
    for path in sorted({*python, *pages} - skipped):
        if "fixtures" not in path.parts or path.suffix == ".py":
            found.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path)
    return found


@pytest.mark.parametrize("folder", sorted(files()))
def test_no_word_of_the_old_dialect_is_left(folder: str) -> None:
    known = allowed()
    found = [line for path in files()[folder] for line in complaints(path, path.read_text(encoding="utf-8"), known)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    ["judged = 1", "def f(knob): ...", "x.rivals", "'how to mend it'", "# told once", "f'{held}'", "class VerbName: ...", "'''Judging.'''"],
)  # fmt: skip
def test_a_word_is_found_wherever_it_stands(text: str) -> None:
    """Without this, a reader that finds nothing would pass for clean text."""
    assert complaints(ROOT / "x.py", text, (set(), set()))


@pytest.mark.parametrize(
    "text", ["amended = 1", "'recommended'", "# it is held in memory", "'held beside it'", "verbose = 2"]
)
def test_other_words_pass(text: str) -> None:
    assert not complaints(ROOT / "x.py", text, (set(), set()))


def test_every_allowed_word_is_needed() -> None:
    text = "".join(p.read_text(encoding="utf-8") for group in files().values() for p in group)
    assert [word for words in allowed() for word in sorted(words) if word not in text] == []
