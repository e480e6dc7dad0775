"""Secrets of URLs: no command that takes one shows them, whatever it does with the URL."""

from pathlib import Path

import pytest

from cxr_ray.cli import main
from tests.fakes.explained import store, trained

URLS = ("s3://AKIA:geheim@bucket/x", "s3://bucket/x?region=eu&secret_key=geheim", "https://me:geheim@host/x?sig=geheim")
COMMANDS = """
ingest nih URL out
ingest nih raw URL
describe URL
verify URL
init URL
config --store URL
config -c URL
train --store URL
train --store STORE --output URL
train --store STORE --data.cache URL
train --store STORE --model.weights URL
train --resume URL
train --from URL
train -c URL
tune --store URL
tune --resume URL
embed URL STORE out
embed RUN URL out
embed RUN STORE URL
evaluate URL
evaluate RUN --data URL
predict URL STORE out.csv
predict RUN URL out.csv
predict RUN STORE URL
explain URL
explain RUN URL
explain RUN STORE --out URL
export URL out.onnx
show URL
errors URL
runs URL
compare RUN URL
serve URL
phantom URL
"""


@pytest.mark.parametrize("command", COMMANDS.strip().splitlines())
def test_no_secret_of_a_url_is_shown(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"RUN": str(trained().path), "STORE": str(store().path)}
    for url in URLS:
        assert main([{**values, "URL": url}.get(word, word) for word in command.split()]) == 2
        shown = capsys.readouterr()
        assert "geheim" not in shown.out + shown.err
    assert not [path for path in tmp_path.rglob("*") if "geheim" in path.name]
