"""The page of a store: what it shows, what it must not contain, and that every figure is a picture."""

import base64
import io
import re
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ray.cli import main
from cxr_ray.data import store as stores
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from cxr_ray.errors import UserError
from cxr_ray.labels import Filter
from cxr_ray.plotting import store_plots
from cxr_ray.report import store_page
from tests.fakes.store import fake_store
from tests.report.pages import assert_menu_in_page_order
from tests.report.test_run_page import CHROMIUM

FIGURES = ["label_frequency", "pixels", "samples", "sizes"]
SEVERAL = ["co_occurrence", "findings", "label_vectors", "one_a_label", "split_balance"]


def made(folder: Path, *, task: str = "multilabel", rows: int = 120, **about: Any) -> stores.Store:
    labels = {"multilabel": ("Edema", "Mass & Co", "Effusion"), "multiclass": ("A", "B", "C"), "binary": ("Covid",)}[
        task
    ]
    fake = fake_store(
        rows, labels, task="multilabel" if task == "binary" else task, uncertain=0.1 if task == "multilabel" else 0
    )
    table = fake.index.drop(columns=["mean", "variance", "split"])
    table["patient"] = "patient-secret-" + table["patient"]
    table["image"] = "path-secret/" + table["image"]
    table["split"] = np.where(fake.index["patient"].str[1:].astype(int) % 3 == 0, "test", "train")
    return store_writer.write(
        folder,
        fake.pixels,
        table,
        DatasetInfo(
            labels=labels,
            task=task,
            features=("view", "sex"),
            notes=("a <b>note</b>",),
            filters=(Filter(name="PA", query="view == 'PA'"),),
        ),
        **about,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.Store:
    return made(tmp_path_factory.mktemp("store_page") / "store")


@pytest.fixture(scope="module")
def written(store: stores.Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page."""
    return store_page.write(store, tmp_path_factory.mktemp("store_page") / "d", top=4).parent


def page_of(store: stores.Store, out: Path, **options: object) -> str:
    return store_page.write(store, out, **options).read_text(encoding="utf-8")  # type: ignore[arg-type]


def test_the_page_shows_the_contents_of_the_store(store: stores.Store, written: Path) -> None:
    page = (written / "describe.html").read_text(encoding="utf-8")
    files = sorted(path.name for path in written.iterdir())
    assert files == sorted(["describe.html", "label_vectors.csv", *(f"{name}.png" for name in [*FIGURES, *SEVERAL])])
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    edema = int((store.index["Edema"] == 1).sum())
    assert f"Edema {edema} {100 * edema / 120:.2f}" in words and "Mass &amp; Co" in words
    vectors = store.index[list(store.labels)].eq(1).value_counts()
    assert f"The 4 most frequent of {len(vectors)}" in words and f"none {vectors[False, False, False]}" in words
    assert "a &lt;b&gt;note&lt;/b&gt;" in page
    cleaned = int((store.index["view"] == "PA").sum())
    assert f"{cleaned} rows after the declared cleaning" in words
    assert f"rows {int((store.index['split'] == 'train').sum())} {int((store.index['split'] == 'test').sum())}" in words
    assert f"mean {store.index['mean'].mean() / 255:.4f}" in words and "28 × 28 120 100.0" in words


def test_every_label_vector_is_in_the_csv(store: stores.Store, written: Path) -> None:
    table = pd.read_csv(written / "label_vectors.csv").set_index("labels")
    counted: dict[str, int] = {}
    for values in store.index[list(store.labels)].to_numpy():
        name = "|".join(label for label, value in zip(store.labels, values, strict=True) if value == 1) or "none"
        counted[name] = counted.get(name, 0) + 1
    assert table["rows"].to_dict() == counted and table["rows"].is_monotonic_decreasing
    assert table["percent"].sum() == pytest.approx(100)
    assert all(bool(table.loc[name, f"label/{k}"]) == (k in name.split("|")) for name in counted for k in store.labels)


def test_the_page_has_the_warnings_of_the_terminal_and_the_name_of_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = fake_store(40)
    fake.pixels[3] = 7
    table = fake.index.drop(columns=["mean", "variance"])
    rule = Filter(name="PA", query="view == 'PA'")
    info = DatasetInfo(labels=fake.labels, task="multilabel", notes=("a note",), filters=(rule,))
    store = store_writer.write(tmp_path / "hospital-a", fake.pixels, table, info)
    assert main(["describe", str(store.path), "--out", str(tmp_path / "d")]) == 0
    printed = capsys.readouterr().out.splitlines()
    page = unescape((tmp_path / "d" / "describe.html").read_text(encoding="utf-8"))
    warnings = [line.partition(": ")[2] for line in printed if line.startswith(("warning: ", "note: "))]
    assert len(warnings) >= 2 and any("one gray in all pixels (row" in line for line in warnings)
    assert all(line in page for line in warnings)
    kept = next(line for line in printed if line.startswith("cleaning rules of the source"))
    assert kept[1:] in page and "<h1>hospital-a</h1>" in page and "<title>hospital-a: " in page


def test_every_figure_is_a_picture_and_in_the_page(written: Path) -> None:
    page = (written / "describe.html").read_text(encoding="utf-8")
    inside = [base64.b64decode(body) for body in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    for name in [*FIGURES, *SEVERAL]:
        body = (written / f"{name}.png").read_bytes()
        assert body in inside, name
        pixels = np.asarray(Image.open(io.BytesIO(body)).convert("L"))
        assert min(pixels.shape) > 200 and len(np.unique(pixels)) > 5, name
        assert (pixels[:, -2:] > 250).mean() > 0.5, name  # nothing is cut off at the edge
    assert len(inside) == len(FIGURES) + len(SEVERAL)


def test_the_page_names_no_patient_and_loads_nothing(store: stores.Store, written: Path) -> None:
    page = (written / "describe.html").read_text(encoding="utf-8")
    assert "secret" not in page and str(store.path) not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page) and "http" not in page
    assert page.count("<script") == 1 and "fetch(" not in page
    assert_menu_in_page_order(page)


def test_equal_stores_give_equal_bytes(store: stores.Store, written: Path, tmp_path: Path) -> None:
    page_of(stores.open(store.path), tmp_path, top=4)
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_pictures_can_be_left_out(store: stores.Store, tmp_path: Path) -> None:
    page = page_of(store, tmp_path, pictures=False)
    assert (
        "Samples" not in page
        and not (tmp_path / "samples.png").exists()
        and not (tmp_path / "one_a_label.png").exists()
    )


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_one_class_an_image_needs_no_vectors(task: str, tmp_path: Path) -> None:
    page = page_of(made(tmp_path / "s", task=task), tmp_path / "d")
    assert "Label vectors" not in page and "Co-occurrence" not in page and "Split balance" in page


def test_a_store_that_cannot_be_split_is_described(tmp_path: Path) -> None:
    page = page_of(made(tmp_path / "s", rows=3), tmp_path / "d")
    assert "The default settings cannot split these rows" in page


def test_leakage_between_official_parts_is_reported_by_row(tmp_path: Path) -> None:
    fake = fake_store(40)
    fake.pixels[7] = fake.pixels[20]
    table = fake.index.drop(columns=["mean", "variance"]).assign(split=["test"] * 10 + ["train"] * 30)
    table.loc[[12], "patient"] = table["patient"].loc[3]
    store = store_writer.write(tmp_path / "s", fake.pixels, table, DatasetInfo(labels=fake.labels, task="multilabel"))
    assert store_page.leakage_text(store) == (
        "1 patient in two parts (row 9 of test and row 39 of train); 1 image in two parts (row 24 of test and row 63 of train)"
    )


def test_a_folder_that_cannot_be_written_is_one_line(store: stores.Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot make .*choose a folder"):
        store_page.write(store, tmp_path / "file")


def test_many_labels_are_plotted_without_counts_and_long_names_are_cut() -> None:
    pairs = pd.DataFrame(
        np.eye(30, dtype=int) * 5, index=[f"l{i}" for i in range(30)], columns=[f"l{i}" for i in range(30)]
    )
    assert not store_plots.co_occurrence(pairs).axes[0].texts
    assert len(store_plots.co_occurrence(pairs.iloc[:5, :5]).axes[0].texts) == 25
    assert store_plots.shorten("a + " * 30, 10) == "a + a + a…" and store_plots.shorten("short") == "short"
    assert [store_plots.brief(n) for n in (0, 7, 999, 1234, 98_765)] == ["", "7", "999", "1.2k", "98k"]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_fits_a_phone(written: Path, tmp_path: Path) -> None:
    """No sideways scrolling at 390 px: figures shrink, tables scroll in their own box."""
    probe = tmp_path / "probe.html"
    script = "<script>onload=()=>{document.body.innerHTML='WIDTH '+document.documentElement.scrollWidth+' OF '+innerWidth}</script>"
    probe.write_text(
        (written / "describe.html").read_text(encoding="utf-8").replace("</body>", script + "</body>"), encoding="utf-8"
    )
    out = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path}/chrome",
         "--disable-background-networking", "--window-size=390,800", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"WIDTH (\d+) OF (\d+)", out)
    assert found is not None and int(found[1]) <= int(found[2]), found
