"""Progress outside the command line: few lines in a log, and the last one always. A terminal's bar: test_progress_terminal.py."""

import io

import pytest

from cxr_ray.runtime.progress import Progress
from tests.fakes import notebook as fake


def test_lines_are_few_and_the_last_is_always_there() -> None:
    now, out = [0.0], io.StringIO()
    with Progress("ingest", stream=out, clock=lambda: now[0]) as progress:
        for done in range(1001):
            now[0] = 0.1 * done
            progress(done, 1000, rejected=done // 500)
    lines = out.getvalue().splitlines()
    assert len(lines) == 11 and lines[0] == "ingest: 0 of 1,000 images (0%)"
    assert lines[-1] == "ingest: 1,000 of 1,000 images (100%) at 10 images/s, 2 rejected"


def test_a_notebook_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown, now = fake.install(monkeypatch), [0.0]
    with Progress("ingest", clock=lambda: now[0]) as progress:
        progress(0, 1000)
        now[0] = 10.0
        progress(500, 1000, rejected=1)
    assert len(shown) == 1 and "ingest: 500 of 1,000 images, 10 s, 50 images/s, 1 rejected" in shown[0][-1]
    assert capsys.readouterr().out == ""
