"""Pictures of the site, as SVG in the colours of its theme: the way of the data, and the packages with their imports."""

from html import escape
from itertools import pairwise

import packages

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels."""

DATA_WAY = [
    ("dataset", "files"),
    ("records", "table, no pixels"),
    ("store", "Arrow, memory-mapped"),
    ("plan", "rows and targets"),
    ("batches", "uint8, ordered"),
    ("model", "logits"),
    ("predictions", "Parquet"),
    ("metrics", "CSV, JSON"),
    ("report", "HTML"),
]


def data_way() -> str:
    """The way from a dataset to a report: one box per kind of data, from left to right, in rows of five, and of three for a narrow page."""
    return _block(_data_way("wide", per_row=5, gap=26), _data_way("narrow", per_row=3, gap=14))


def _data_way(kind: str, *, per_row: int, gap: float) -> str:
    width, height = 128, 46
    boxes: list[Box] = [
        (8 + (i % per_row) * (width + gap), 8 + (i // per_row) * (height + 44), width, height)
        for i in range(len(DATA_WAY))
    ]
    lines = [_arrow(first, second) for first, second in pairwise(boxes)]
    shapes = [_box(box, name, about) for box, (name, about) in zip(boxes, DATA_WAY, strict=True)]
    rows = -(-len(boxes) // per_row)
    size = (8 + per_row * (width + gap), rows * (height + 44) - 28)
    return _svg("From a dataset to a report", size, [*lines, *shapes], kind)


def package_levels() -> str:
    """The packages by level, the highest first. An arrow is an import; what another arrow's target imports too is left out."""
    arrows = packages.graph()
    level = packages.levels(arrows)
    rows = [sorted(name for name in arrows if level[name] == at) for at in range(max(level.values()), -1, -1)]
    width, height, step = 104, 26, 62
    total = max(map(len, rows)) * (width + 24)
    place: dict[str, Box] = {}
    for at, names in enumerate(rows):
        left = (total - len(names) * (width + 24)) / 2 + 12
        place |= {name: (left + i * (width + 24), 8 + at * step, width, height) for i, name in enumerate(names)}
    lines = [
        _arrow(place[name], place[other])
        for name, others in arrows.items()
        for other in sorted(others - imported_below(arrows, others))
    ]
    shapes = [_box(box, name) for name, box in place.items()]
    return _block(_svg("The packages and their imports", (total, len(rows) * step), [*lines, *shapes]))


def imported_below(arrows: dict[str, set[str]], names: set[str]) -> set[str]:
    """Everything that `names` import, directly or through others."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        new = arrows[todo.pop()] - found
        found |= new
        todo += new
    return found


def _box(box: Box, name: str, about: str = "") -> str:
    left, top, width, height = box
    middle, line = left + width / 2, top + height / 2 + (-3 if about else 4)
    second = f'<text class="about" x="{middle:.0f}" y="{line + 15:.0f}">{escape(about)}</text>' if about else ""
    return (
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="5"/>'
        f'<text x="{middle:.0f}" y="{line:.0f}">{escape(name)}</text>{second}'
    )


def _arrow(first: Box, second: Box) -> str:
    """A curve with a tip: from the side if both are in one row, else from the bottom of the first to the top of the second."""
    (left, top, width, height), (to_left, to_top, to_width, _) = first, second
    if top == to_top:
        y = top + height / 2
        end = (to_left, y)
        return f'<path d="M{left + width:.0f},{y:.0f}H{to_left - 6:.0f}"/>' + _tip(end, (-7, -4), (-7, 4))
    start, end = (left + width / 2, top + height), (to_left + to_width / 2, to_top)
    bend = (end[1] - start[1]) / 2
    curve = f"C{start[0]:.0f},{start[1] + bend:.0f} {end[0]:.0f},{end[1] - bend:.0f} {end[0]:.0f},{end[1] - 5:.0f}"
    return f'<path d="M{start[0]:.0f},{start[1]:.0f}{curve}"/>' + _tip(end, (-4, -7), (4, -7))


def _tip(end: tuple[float, float], *corners: tuple[float, float]) -> str:
    points = " ".join(f"{end[0] + x:.0f},{end[1] + y:.0f}" for x, y in ((0, 0), *corners))
    return f'<polygon class="tip" points="{points}"/>'


def _svg(title: str, size: tuple[float, float], shapes: list[str], kind: str = "") -> str:
    shape = f'viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" width="{size[0]:.0f}"'
    head = f'<svg {shape} role="img" aria-label="{title}"' + (f' class="{kind}">' if kind else ">")
    return "\n".join([head, f"<title>{title}</title>", *shapes, "</svg>"])


def _block(*drawings: str) -> str:
    """A block of HTML without empty lines, which Markdown would take for its end."""
    return "\n".join(['<div class="drawing">', *drawings, "</div>"])
