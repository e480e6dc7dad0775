"""The scripts of the site: what they generate is complete, and what they check is found. `make docs` builds the site itself."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import cxr_ray
from cxr_ray import config as configs
from cxr_ray.cli import app as cli
from cxr_ray.registry import LOSSES, MODELS, SOURCES

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("api", "settings", "commands", "sources", "models", "metrics")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The modules of docs/, which import each other by name."""
    names = ("packages", "drawings", "generated", "check")
    sys.path.insert(0, str(ROOT / "docs"))
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(ROOT / "docs"))
    for name in names:
        sys.modules.pop(name)


def test_the_reference_has_every_setting_command_source_loss_model_and_name(scripts: dict[str, ModuleType]) -> None:
    made = scripts["generated"]
    settings, commands = made.settings(), made.commands()
    assert [name for name, _ in configs.settings(configs.Config) if f"{{confval}} {name}\n" not in settings] == []
    assert [name for name in cli.COMMANDS if f"## {name}\n" not in commands or f"cxr-ray {name}" not in commands] == []
    assert [entry.name for entry in SOURCES if f"## `{entry.name}`\n" not in made.sources()] == []
    assert [entry.name for entry in LOSSES if f"### `{entry.name}`\n" not in made.losses()] == []
    assert [entry.name for entry in MODELS if f"| `{entry.name}` |" not in made.models()] == []
    assert sorted(name for names in made.api_groups().values() for name in names) == sorted(cxr_ray.__all__)
    assert made.presets().count("`preset:") == len(list((ROOT / "jobs" / "configs").glob("*.yaml")))


def test_every_part_that_a_page_asks_for_exists_and_is_used(scripts: dict[str, ModuleType]) -> None:
    made = scripts["generated"]
    asked = {
        name for page in (ROOT / "docs").rglob("*.md") for name in made.ASKED.findall(page.read_text(encoding="utf-8"))
    }
    assert asked == set(made.PARTS)
    with pytest.raises(KeyError):
        made.fill("<!-- generated: nothing -->")


def test_an_arrow_of_the_drawing_is_an_import_and_the_others_follow(scripts: dict[str, ModuleType]) -> None:
    """Along the arrows that are drawn, exactly the packages are reached that are imported directly or through others."""
    arrows, below = scripts["packages"].graph(), scripts["drawings"].imported_below
    drawn = {name: others - below(arrows, others) for name, others in arrows.items()}
    assert all(below(drawn, {name}) == below(arrows, {name}) for name in arrows)
    svg = scripts["drawings"].package_levels()
    assert svg.count('class="tip"') == sum(map(len, drawn.values())) < sum(map(len, arrows.values()))
    assert all(f">{name}</text>" in svg for name in arrows) and "\n\n" not in svg


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site that lacks nothing but the reference's content."""
    links = "".join(f'<a href="reference/{page}.html">{page}</a>' for page in PAGES)
    (tmp_path / "index.html").write_text(f'<img src="a.png">{links}<a href="https://www.ray.io">Ray</a>')
    (tmp_path / "a.png").touch()
    (tmp_path / "reference").mkdir()
    for page in PAGES:
        (tmp_path / "reference" / f"{page}.html").write_text(
            '<h1 id="top">x</h1><a href="../index.html">up</a><a href="#top">top</a>'
        )
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("reference/api.html", '<a href="nothing.html">x</a>', "reference/api.html: no file reference/nothing.html"),
        (
            "reference/api.html",
            '<a href="metrics.html#no">x</a>',
            "reference/api.html: reference/metrics.html has no anchor no",
        ),
        ("index.html", '<script src="https://cdn.example/x.js"></script>', "index.html loads https://cdn.example/x.js"),
        ("index.html", '<link rel="stylesheet" href="//cdn.example/x.css">', "index.html loads //cdn.example/x.css"),
        ("index.html", '<img src="b.png">', "index.html loads b.png, which does not exist"),
        ("lost.html", "<p>nobody links here</p>", "no link leads to lost.html"),
        ("site.css", "@font-face { src: url(https://fonts.example/a.woff) }", "site.css loads //fonts.example/a.woff"),
    ],
)
def test_what_is_wrong_with_a_site_is_found(
    scripts: dict[str, ModuleType], site: Path, file: str, text: str, complaint: str
) -> None:
    before = set(scripts["check"].complaints(site))
    assert complaint not in before and all("lacks" in line for line in before)
    old = (site / file).read_text() if (site / file).exists() else ""
    (site / file).write_text(old + text)
    assert set(scripts["check"].complaints(site)) - before == {complaint}


def test_what_the_reference_lacks_is_found(scripts: dict[str, ModuleType], site: Path) -> None:
    found = "\n".join(scripts["check"].complaints(site))
    for line in (
        "settings.html lacks confval-optim.lr",
        "commands.html lacks train",
        "api.html lacks cxr_ray.train",
        "metrics.html lacks the metric auroc",
    ):
        assert f"reference/{line}" in found
