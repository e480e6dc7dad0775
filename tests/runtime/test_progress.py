"""Progress: few lines in a log, always with the last one; a bar on a terminal and in a notebook; the same words everywhere."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.runtime import progress as module
from cxr_ray.runtime.progress import Progress, Rate, duration, text, track
from tests.fakes import notebook as fake


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(steps: list[tuple[float, int]], total: int, **options: float) -> list[str]:
    """The lines for (second, done) steps."""
    clock, out = Clock(), io.StringIO()
    with Progress("ingest", stream=out, clock=clock, **options) as progress:  # type: ignore[arg-type]
        for clock.now, done in steps:
            progress(done, total)
    return out.getvalue().splitlines()


def test_lines_are_printed_at_most_every_five_seconds_and_ten_percent() -> None:
    lines = lines_of([(0.1 * n, n) for n in range(1001)], 1000)  # 100 s
    assert lines[0] == "ingest: 0 of 1,000 images (0%)"
    assert lines[5] == "ingest: 500 of 1,000 images (50%) at 10 images/s, 50 s left"
    assert lines[-1] == "ingest: 1,000 of 1,000 images (100%) at 10 images/s"
    assert len(lines) == 11


def test_short_work_prints_its_start_and_end() -> None:
    assert len(lines_of([(0.0, 0), (0.1, 50), (0.2, 100)], 100)) == 2


def test_work_shorter_than_asked_prints_nothing() -> None:
    assert lines_of([(0.0, 0), (1.9, 100)], 100, after_s=2) == []
    assert lines_of([(0.0, 0), (1.0, 50), (2.0, 100)], 100, after_s=2) == [
        "ingest: 100 of 100 images (100%) at 50 images/s"
    ]


def test_work_done_by_an_earlier_process_is_not_counted_as_speed() -> None:
    assert lines_of([(0.0, 900), (10.0, 1000)], 1000)[-1] == "ingest: 1,000 of 1,000 images (100%) at 10 images/s"


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 30)), max_size=60), st.integers(0, 500))
def test_the_last_line_is_always_there_and_lines_are_never_close(gaps: list[tuple[float, int]], total: int) -> None:
    second, done, steps = 0.0, 0, [(0.0, 0)]
    for wait, more in gaps:
        second, done = second + wait, min(total, done + more)
        steps.append((second, done))
    steps.append((second, total))
    lines = lines_of(steps, total)
    assert lines[-1].startswith(f"ingest: {total:,} of {total:,} images (100%)")
    assert len(lines) <= 2 + min(second / 5, 10) and len(set(lines)) == len(lines)


def test_a_terminal_gets_a_bar_with_the_same_words() -> None:
    out, clock = Terminal(), Clock()
    with Progress("ingest", stream=out, clock=clock) as progress:
        for done in range(0, 101, 10):
            clock.now = float(done)
            progress(done, 100, "3 rejected")
    assert "ingest: 100 of 100 images (100%) at 1.0 images/s, 3 rejected" in out.getvalue()


def test_a_notebook_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown, clock = fake.install(monkeypatch), Clock()
    with Progress("ingest <1>", clock=clock) as progress:
        progress(0, 1000)
        clock.now = 10.0
        progress(500, 1000, "1 rejected")
    (states,) = shown
    assert "ingest &lt;1&gt;: 500 of 1,000 images (50%) at 50 images/s, 10 s left, 1 rejected" in states[-1]
    assert 'value="500" max="1000"' in states[-1] and capsys.readouterr().out == ""


def test_a_log_gets_the_lines_also_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("sys.stdout", out := Terminal())
    with Progress.of_training("epoch 1/2", lines.append) as progress:
        progress(0, 10)
        progress(10, 10)
    assert lines == [] and out.getvalue() == ""  # an epoch of less than 30 s has its own line


@pytest.mark.parametrize(
    ("rate", "words"),
    [(1234.5, "1,234 images/s, 1 s left"), (2.0, "2.0 images/s, 500 s left"), (1 / 6, "10 images/min, 1.7 h left"),
     (1 / 7200, "0.5 images/h, 2000.0 h left"), (0.0, "")],
)  # fmt: skip
def test_the_unit_of_time_fits_the_rate(rate: float, words: str) -> None:
    expected = words.replace("500 s", "8 min")
    assert text("x", 0, 1000, "images", rate=rate) == "x: 0 of 1,000 images (0%)" + (f" at {expected}" if words else "")


def test_a_duration_has_two_digits_or_so() -> None:
    assert [duration(s) for s in (0.4, 89.4, 90, 5399, 5400, 36000)] == [
        "0 s",
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
        "10.0 h",
    ]


def test_a_rate_is_of_the_time_since_the_first_call() -> None:
    clock = Clock()
    rate = Rate(clock)
    clock.now = 100.0
    assert rate(40) == 0.0
    clock.now = 110.0
    assert rate(60) == 2.0


# -- computations that track their own work -----------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRACKED_AFTER_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_tracked_work_is_silent_unless_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2], "intervals", "resamples", total=2)) == [1, 2] and capsys.readouterr().out == ""
    with module.shown():
        assert list(track([[1, 2], [3]], "intervals", "resamples", total=3, sized=True)) == [[1, 2], [3]]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "intervals: 0 of 3 resamples (0%)" and lines[-1].startswith("intervals: 3 of 3 resamples (100%)")


@pytest.mark.usefixtures("at_once")
def test_work_within_tracked_work_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with module.shown():
        for _ in track(range(2), "subgroups", "features", total=2):
            list(track(range(5), "intervals", "resamples", total=5))
        list(track(range(5), "after", "parts", total=5))
    lines = capsys.readouterr().out.splitlines()
    assert {line.split(":")[0] for line in lines} == {"subgroups", "after"}


def test_short_tracked_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with module.shown():
        list(track(range(5), "intervals", "resamples", total=5))
    assert capsys.readouterr().out == ""
