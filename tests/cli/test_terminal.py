"""Tables of the terminal: no number and no word is broken; columns without room are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.cli import terminal

COLUMNS = [
    "label",
    "threshold",
    "positives",
    "predicted positives",
    "recall",
    "auroc",
    "precision",
    "f1",
    "average precision",
]
ROWS = [
    ["Enlarged Cardiomediastinum", 0.5, 12_345, 23, 0.71, 0.66, 0.5, 0.4, 0.3],
    ["Edema", 0.25, 8, 21, 1.0, 0.6, 0.4, 0.5, 0.2],
]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_words_and_numbers_stay_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    terminal.table(COLUMNS, ROWS, first_out=["predicted positives"])
    output = capsys.readouterr().out
    body, _, note = output.partition("no room at")
    assert max(map(len, body.splitlines())) <= width
    missing = [name for name in COLUMNS if name in note]
    assert missing == ([] if width >= 120 else [name for name in COLUMNS if name in missing])
    assert not missing or missing.count("predicted positives") == 1  # it goes first
    for name, *values in zip(COLUMNS, *ROWS, strict=True):
        cells = [name, *(f"{v:.3f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else v for v in values)]
        if name not in missing:
            assert all(word in body.split() for cell in cells for word in cell.split()), (name, body)
    assert "label" in body


def test_a_short_label_has_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    terminal.table(COLUMNS, [["Pleural Effusion", *ROWS[0][1:]]])
    assert any(line.strip().startswith("Pleural Effusion ") for line in capsys.readouterr().out.splitlines())


def test_a_path_is_broken_before_it_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = "Covid-19/" + "0123456789abcdef" * 4 + ".jpeg"
    terminal.table(["row", "truth", "file"], [[40, "Covid-19", path]])
    output = capsys.readouterr().out
    assert "no room" not in output and max(map(len, output.splitlines())) <= 60
    assert path in "".join(output.partition("─ \n")[2].split()).replace("40Covid-19", "", 1)


def test_a_column_is_left_out_only_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    rows = [["Edema", 1, "a-word-of-30-letters-is-one-wo", 2]]
    assert terminal.fit(["label", "n", "long", "count"], rows)[0] == ["label", "n", "count"]
    monkeypatch.setenv("COLUMNS", "46")
    assert terminal.fit(["label", "n", "long", "count"], rows)[0] == ["label", "n", "long"]


def test_a_log_has_a_width_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.console().width == terminal.LOG_WIDTH
    assert terminal.fit(COLUMNS, ROWS)[0] == COLUMNS


def test_notes_that_differ_in_numbers_are_one_line() -> None:
    notes = {"a": "too few (3) for 0.9", "b": "too few (12) for 0.9", "c": "none", "d": "too few (5) for 0.9"}
    assert terminal.merge_notes(notes) == ["a, b, d: too few (3 to 12) for 0.9", "c: none"]
    assert terminal.merge_notes({str(i): "same" for i in range(9)}) == ["0, 1, 2, 3, 4 and 4 more: same"]
    assert terminal.merge_notes({}) == []


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.from_regex(r"\A[a-c .]*[0-9]{0,2}[a-c .0-9]*\Z"), max_size=8)
)
def test_one_note_is_unchanged_and_every_text_is_covered(notes: dict[str, str]) -> None:
    lines = terminal.merge_notes(notes)
    assert len(lines) == len({terminal.NUMBER.sub("#", text) for text in notes.values()})
    for label, text in list(notes.items())[:1]:
        assert terminal.merge_notes({label: text}) == [f"{label}: {text}"]
