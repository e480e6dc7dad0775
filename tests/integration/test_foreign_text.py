"""Text that comes with the data and the user: names cannot become markup of any page, and patients, studies and paths stay out of every
file that people read, of file names, and of what commands print."""

import contextlib
import io
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cxr_ray import cli
from cxr_ray.data import store_writer
from cxr_ray.report import sweep_page
from tests.fakes.store import fake_store
from tests.fakes.sweep import make_sweep

pytestmark = pytest.mark.slow
LABELS = ('"><img src=x onerror=alert(1)>', "<script>alert(2)</script>", "'-->{{7*7}}&amp;<b id=evil>")
NAME = "\"'><svg onload=alert(3)>"
"""Of a run, a store and an image file: no slash, since they are names of files."""
SECRETS = ("patient-secret", "study-secret", "path-secret")
READABLE = {".txt", ".json", ".jsonl", ".csv", ".html", ".yaml", ".md", ".log"}


class Made:
    """Everything that the commands made and printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed = ""

    def run(self, *words: str, code: int = 0) -> None:
        """Run a command and keep what it prints."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            found = cli.main([*words])
        self.printed += out.getvalue()
        assert found == code, out.getvalue()[-2000:]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(tmp_path_factory.mktemp("foreign"))
    folder, runs = made.folder, made.folder / "runs"
    fake = fake_store(60, labels=LABELS)
    table = fake.index.drop(columns=["mean", "variance"])
    table["patient"] = "patient-secret-" + table["patient"]
    table["study"] = "study-secret"
    table["image"] = "path-secret/" + table["image"]
    store = store_writer.write(folder / f"{NAME} store", fake.pixels, table, fake.info)
    shards, films = str(store.path), folder / f"{NAME} films"
    films.mkdir()
    Image.fromarray(fake.pixels[0]).save(films / f"{NAME}.png")
    made.run("describe", shards, "--out", str(folder / "describe"))
    words = ["--store", shards, "--output", str(runs), "--name", "first", "--model", "lenet", "--epochs", "1"]
    made.run("train", *words, "--report.bootstrap", "20")
    (runs / "first").rename(runs / NAME)  # train takes no such name
    made.run("evaluate", str(runs / NAME), "--bootstrap", "20")
    shutil.copytree(runs / NAME, runs / "other")
    made.run("compare", str(runs / NAME), str(runs / "other"), "--out", str(folder / "compare.html"))
    made.run("show", str(runs / NAME))
    made.run("runs", str(runs))
    made.run("explain", str(runs / NAME), str(films), "--methods", "saliency", "--out", str(folder / "films"))
    made.run(
        "explain", str(runs / NAME), "--audit", "--methods", "saliency", "--limit", "4", "--out", str(folder / "audit")
    )
    made.run("predict", str(runs / NAME), str(films), str(folder / "films.csv"))
    made.run("predict", str(runs / NAME), shards, str(folder / "store.csv"))
    made.run("evaluate", str(runs / "gone"), code=2)
    space = {"optim.lr": {"choice": [1e-4, 1e-3]}, f"data.uncertain.{LABELS[0]}": {"choice": ["zeros", "ones"]}}
    sweep_page.write(make_sweep(folder / "sweep", labels=LABELS, trials=3, failed=(2,), epochs=2, space=space))
    return made


class Elements(HTMLParser):
    """What a browser would make of a page: elements that only a name could have brought, and the texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.foreign: list[str] = []
        self.words: list[str] = []
        self._script = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self._script = tag == "script"
        if any(name.startswith("on") for name in of) or of.get("id") == "evil" or of.get("src") == "x":
            self.foreign.append(str(self.get_starttag_text()))

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._script and data.startswith("alert("):
            self.foreign.append(data)


def test_the_check_sees_an_element_that_a_name_made() -> None:
    for text in (*LABELS, NAME):
        assert Elements(f'<p title="{text}">{text}</p>').foreign
        assert not Elements("<p>&lt;script&gt;alert(2)</p>").foreign


def test_no_name_is_markup_in_any_page(made: Made) -> None:
    pages = {
        path.relative_to(made.folder).as_posix(): Elements(path.read_text(encoding="utf-8"))
        for path in made.folder.rglob("*.html")
    }
    names = {name.rpartition("/")[2] for name in pages}
    assert names >= {f"{page}.html" for page in ("describe", "report", "index", "compare", "explain", "audit", "sweep")}
    assert {name: page.foreign for name, page in pages.items() if page.foreign} == {}
    for page in pages.values():
        shown = "".join(page.words)
        assert "<script>alert(2)" in shown or NAME in shown  # the names are there, as text


def test_no_patient_study_or_path_is_printed_or_in_a_file_that_people_read(made: Made) -> None:
    assert not [secret for secret in SECRETS if secret in made.printed]
    files = [path for path in made.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if any(secret in path.name for secret in SECRETS)]
    readable = [path for path in files if path.suffix in READABLE]
    assert {path.name for path in readable} >= {
        "log.txt",
        "events.jsonl",
        "run.json",
        "metrics.csv",
        "report.html",
        "store.csv",
    }
    found = {
        str(path): text for path in readable if any(s in (text := path.read_text(encoding="utf-8")) for s in SECRETS)
    }
    assert not found


def test_only_asked_for_do_patients_leave_a_store(made: Made) -> None:
    run, shards = str(made.folder / "runs" / NAME), str(made.folder / f"{NAME} store")
    made.run("predict", run, shards, str(made.folder / "ids.parquet"), "--ids")
    assert pd.read_parquet(made.folder / "ids.parquet")["patient"].str.startswith("patient-secret").all()
