"""Progress: few lines in a log, always with the last one; a bar on a terminal."""

import io

from cxr_ray.runtime.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress_lines(steps: list[tuple[float, int]], total: int) -> list[str]:
    now = [0.0]
    out = io.StringIO()
    with Progress("ingest", stream=out, clock=lambda: now[0]) as progress:
        for second, done in steps:
            now[0] = second
            progress(done, total)
    return out.getvalue().splitlines()


def test_lines_are_printed_at_most_every_five_seconds_and_ten_percent() -> None:
    lines = progress_lines([(0.1 * n, n) for n in range(1001)], 1000)  # 100 s
    assert lines[0] == "ingest: 0 of 1,000 images (0%)"
    assert lines[-1].startswith("ingest: 1,000 of 1,000 images (100%) at 10 images/s")
    assert len(lines) == 11
    assert lines[5] == "ingest: 500 of 1,000 images (50%) at 10 images/s, 50 s left"


def test_short_work_prints_its_start_and_end() -> None:
    assert len(progress_lines([(0.0, 0), (0.1, 50), (0.2, 100)], 100)) == 2


def test_work_done_by_an_earlier_process_is_not_counted_as_speed() -> None:
    lines = progress_lines([(0.0, 900), (10.0, 1000)], 1000)
    assert lines[-1] == "ingest: 1,000 of 1,000 images (100%) at 10 images/s"


def test_refused_images_are_counted() -> None:
    out = io.StringIO()
    with Progress("ingest", stream=out) as progress:
        progress(10, 10, 3)
    assert out.getvalue().endswith("3 rejected\n")


def test_a_terminal_gets_a_bar() -> None:
    out = Terminal()
    with Progress("ingest", stream=out) as progress:
        for done in range(0, 101, 10):
            progress(done, 100)
    assert "100/100" in out.getvalue()
