"""The page of an explanation: what it contains and must not contain, and that method, label and opacity switch in a browser."""

import dataclasses
import json
import re
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray.explanation.results import Explanation, certificate_table
from cxr_ray.report import explain_page
from tests.report.pages import assert_menu_in_page_order
from tests.report.test_run_page import CHROMIUM

LABELS = ["Edema", "Mass & <b>"]


def explanation() -> Explanation:
    """Two images explained for two labels: an unsigned method, and a signed one whose last certificate fails."""
    rng = np.random.default_rng(0)
    certificates = [
        {"method": "lrp", "row": row, "label": label, "logit": 1.0, "relevance": 0.5, "bias": 0.5, "clip": 0.0,
         "epsilon": 0.0, "adds_up": (row, label) != (9, LABELS[1])}
        for row in (5, 9) for label in LABELS
    ]  # fmt: skip
    return Explanation(
        model="a <i>run</i>",
        images=np.repeat(rng.integers(0, 255, (2, 20, 30), dtype=np.uint8), 2, axis=0),
        maps={
            "saliency": rng.random((4, 20, 30)).astype(np.float32),
            "lrp": rng.normal(size=(4, 20, 30)).astype(np.float32),
        },
        rows=np.asarray([5, 5, 9, 9]),
        labels=LABELS * 2,
        logits=np.asarray([1, -2, 3, 4], np.float32),
        probabilities=np.asarray([0.7, 0.1, 0.9, 0.95], np.float32),
        certificates=certificate_table(certificates),
        identities={"lrp": "relevance + bias = logit"},
        scale=2.0,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain_page") / "explain.html"
    wide = pd.DataFrame({"hit": ["0.500", "0.700 (0.6 to 0.8)"]}, index=["location prior", "lrp"])
    explain_page.write(explanation(), path, scores=("Do not trust <these>.", wide, ["a note"]))
    return path


def test_it_is_one_file_with_escaped_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert_menu_in_page_order(text)
    assert "<i>run</i>" not in text and "<b>" not in text.replace('<b data-end="', "") and "<these>" not in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text) and "url(" not in text and "@import" not in text
    assert "1 map does not add up" in text and "3 of 4" in text and "relevance + bias = logit" in text
    assert "0.700 (0.6 to 0.8)" in text and "a note" in text and "stabiliser absorbed" not in text
    explain_page.write(explanation(), page.with_name("again.html"))
    without = page.with_name("again.html").read_text(encoding="utf-8")
    assert "Scores against annotations" not in without


def test_a_stabiliser_that_took_most_is_stated(tmp_path: Path) -> None:
    """Its certificates hold, and its maps show next to nothing."""
    given = explanation()
    table = given.certificates.assign(relevance=0.05, bias=-0.05, epsilon=1.0, adds_up=True)
    table = pd.concat([table.assign(method="weak"), given.certificates], ignore_index=True)
    found = dataclasses.replace(given, certificates=table)
    assert found.division.index.tolist() == ["weak", "lrp"]
    assert found.division["absorbed"].tolist() == pytest.approx([1 / 1.1, 0])
    assert found.division["holds"].tolist() == [4, 3] and found.division["bias"].tolist() == pytest.approx([-0.05, 0.5])
    (warning,) = found.warnings
    assert warning.startswith("weak: the stabiliser absorbed 91% of the relevance")
    assert warning in found._repr_html_()
    explain_page.write(found, tmp_path / "weak.html")
    assert warning in (tmp_path / "weak.html").read_text(encoding="utf-8")


def test_certificates_keep_the_order_of_the_methods() -> None:
    rows = [{"method": name, "row": row} for row in (1, 2) for name in ("lrp_epsilon", "lrp_alphabeta")]
    assert certificate_table(rows)["method"].tolist() == ["lrp_epsilon"] * 2 + ["lrp_alphabeta"] * 2


def browse(page: Path, folder: Path, script: str) -> dict[str, Any]:
    probe = folder / "probe.html"
    code = f'<script>addEventListener("load", () => setTimeout(async () => {{ {script} }}, 200))</script></head>'
    probe.write_text(page.read_text(encoding="utf-8").replace("</head>", code, 1), encoding="utf-8")
    shown = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=8000", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    found = re.search(r'<pre id="out">(.*?)</pre>', shown, re.DOTALL)
    assert found, shown[-500:]
    return json.loads(unescape(found[1]))


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_method_label_and_opacity_switch(page: Path, tmp_path: Path) -> None:
    script = """
      const wait = () => new Promise((done) => setTimeout(done, 400));
      const control = (name) => document.querySelector(`[name=${name}]`);
      const set = async (name, value) => { control(name).value = value; control(name).dispatchEvent(new Event("input")); await wait(); };
      const first = (n) => [...document.querySelectorAll("canvas")[n].getContext("2d").getImageData(0, 0, 30, 20).data];
      const out = {};
      await set("opacity", 0); out.plain = first(0);
      await set("opacity", 100); out.full = first(0);
      await set("method", "lrp"); out.signed = first(0);
      out.sums = [...document.querySelectorAll("[data-sum]")].map((e) => e.textContent);
      out.failed = [...document.querySelectorAll("figure.failed")].map((e) => e.dataset.item);
      await set("label", "Mass & <b>"); out.shown = [...document.querySelectorAll("[data-item]")].filter((e) => !e.hidden).map((e) => e.dataset.item);
      const pre = document.createElement("pre"); pre.id = "out"; pre.textContent = JSON.stringify(out); document.body.append(pre);
    """
    out = browse(page, tmp_path, script)
    one = explanation()
    np.testing.assert_array_equal(
        np.reshape(out["plain"], (20, 30, 4))[..., :3], one.images[0][..., None].repeat(3, -1)
    )
    scale = one.scales["saliency"]
    hot = scale.mappable().to_rgba(one.maps["saliency"][0], bytes=True)[..., :3]
    assert np.abs(np.reshape(out["full"], (20, 30, 4))[..., :3].astype(int) - hot.astype(int)).max() <= 6
    values, pixels = one.maps["lrp"][0], np.reshape(out["signed"], (20, 30, 4))[..., :3].astype(int)
    assert (pixels[values > 1][:, 0] > pixels[values > 1][:, 2]).all()
    assert (pixels[values < -1][:, 2] > pixels[values < -1][:, 0]).all()
    assert (
        out["sums"][0].startswith(f"sum {one.maps['lrp'][0].sum():.3g}".replace("-", "−"))
        and "logit 1" in out["sums"][0]
    )
    assert out["failed"] == ["3"] and out["sums"][3].endswith("does not add up")
    assert out["shown"] == ["1", "3"]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_fits_a_phone(page: Path, tmp_path: Path) -> None:
    script = """
      const frame = document.createElement("iframe"); frame.style = "width:390px;height:800px;border:0"; frame.srcdoc = document.documentElement.outerHTML.replace(/addEventListener\\("load"/, 'void ("load"');
      frame.onload = () => { const d = frame.contentDocument.documentElement; const pre = document.createElement("pre"); pre.id = "out";
        pre.textContent = JSON.stringify({needs: d.scrollWidth, width: d.clientWidth}); document.body.append(pre); };
      document.body.append(frame);
    """
    size = browse(page, tmp_path, script)
    assert size["needs"] <= size["width"] <= 390
