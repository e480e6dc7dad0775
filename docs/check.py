"""Checks the built site: `python docs/check.py build/docs` prints what is wrong and ends with 1 if anything is.

Links lead to pages and anchors that exist, nothing is loaded from another host, every page is reached by links from the first one, and
the reference has every setting, command, public name, metric, source and loss.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cxr_ray
from cxr_ray import config as configs
from cxr_ray.cli import app as cli
from cxr_ray.metrics import names
from cxr_ray.registry import LOSSES, SOURCES

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
"""Elements that load a file, and the attribute that names it. Of a `link`, all but those that only name another page."""
NOT_LOADED = {"author", "canonical", "index", "search", "next", "prev", "help", "license", "top"}

SEARCHED = {"genindex.html", "search.html"}
"""Pages of Sphinx itself: a form or a `link` leads to them."""


class Page(HTMLParser):
    """What one page links to, loads, and offers as anchors; and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect links, loaded files and anchors."""
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and not set(given.get("rel", "").split()) & NOT_LOADED:
            self.loads.append(given.get("href", ""))
        if LOADED.get(tag) in given:
            self.loads.append(given[LOADED[tag]])

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """The visible text, with the source of scripts."""
        return "".join(self.words)


def complaints(site: Path) -> Iterator[str]:
    """Everything that is wrong with the site in the folder `site`, one line each."""
    pages = {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    if "index.html" not in pages:
        yield f"{site} has no index.html; build it with make docs"
        return
    targets = {name: [_target(name, link) for link in page.links] for name, page in pages.items()}
    for name, page in pages.items():
        for path, anchor in filter(None, targets[name]):
            if path not in pages and not (site / path).is_file():
                yield f"{name}: no file {path}"
            elif path in pages and anchor and anchor not in pages[path].anchors:
                yield f"{name}: {path} has no anchor {anchor}"
        for url in page.loads:
            if urlsplit(url).netloc:
                yield f"{name} loads {url}"
            elif (
                url
                and not url.startswith("data:")
                and not (site / name).parent.joinpath(unquote(urlsplit(url).path)).is_file()
            ):
                yield f"{name} loads {url}, which does not exist"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        for url in re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?(//[^'\")\s]+)", text):
            yield f"{sheet.relative_to(site)} loads {url}"
    reached, todo = set(), ["index.html"]
    while todo:
        name = todo.pop()
        reached.add(name)
        todo += [path for path, _ in filter(None, targets[name]) if path in pages and path not in reached]
    yield from (f"no link leads to {name}" for name in sorted(set(pages) - reached - SEARCHED))
    yield from missing(pages)


def _target(page: str, link: str) -> tuple[str, str] | None:
    """The file and the anchor that a link of a page leads to; None for another host."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = (Path("/") / page).parent.joinpath(unquote(parts.path)) if parts.path else Path("/") / page
    return path.resolve().relative_to("/").as_posix(), unquote(parts.fragment)


def missing(pages: dict[str, Page]) -> Iterator[str]:
    """What the reference lacks."""
    wanted = {
        "settings": [f"confval-{name}" for name, _ in configs.settings(configs.Config)],
        "commands": list(cli.COMMANDS),
        "api": [f"cxr_ray.{name}" for name in cxr_ray.__all__],
        "sources": [entry.name for entry in SOURCES],
        "models": [entry.name for entry in LOSSES],
    }
    for page, anchors in wanted.items():
        known = {_plain(anchor) for anchor in pages[f"reference/{page}.html"].anchors}
        yield from (f"reference/{page}.html lacks {one}" for one in anchors if _plain(one) not in known)
    words = set(re.findall(r"[\w.]+", pages["reference/metrics.html"].text))
    metrics = {"loss", *names.LABEL_METRICS, *(name for group in names.OVERALL_METRICS.values() for name in group)}
    yield from (f"reference/metrics.html lacks the metric {one}" for one in sorted(metrics - words))


def _plain(anchor: str) -> str:
    """An anchor as the site writes it, which replaces dots and underscores."""
    return re.sub(r"[._]", "-", anchor)


if __name__ == "__main__":
    found = list(complaints(Path(sys.argv[1])))
    print("\n".join(found) or f"{sys.argv[1]}: links, loaded files and the reference are complete")
    sys.exit(bool(found))
