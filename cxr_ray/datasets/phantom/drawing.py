"""Draws one synthetic chest X-ray: a body, findings in it, and the picture of both. Knows no files and no labels' cells."""
# Coordinates: x to the right (the patient's left), y down, about -1..1 over the picture; t = |x|, the way from the midline.
# M pixels a side of the canvas, which is wider than the picture so that a turn shows no edge. Densities: 0 air, 1 metal.

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

MARGIN = 1.2
"""Side of the canvas over the side of the picture."""

Plane = npt.NDArray[np.float32]
Box = tuple[str, int, int, int, int]
"""Label, x, y, w, h in pixels of the picture."""


@dataclass(frozen=True)
class Frame:
    """The canvas for pictures of `size` pixels: coordinates of its pixels."""

    size: int
    m: int
    unit: float  # canvas pixels that stand for one side of the picture
    x: Plane  # [1, M]
    y: Plane  # [M, 1]
    t: Plane  # [1, M]
    soft: float  # width of an edge: a pixel and a half

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Canvas pixel of a point."""
        return (x / MARGIN + 1) * self.m / 2, (y / MARGIN + 1) * self.m / 2

    def edge(self, distance: npt.NDArray[Any], soft: float = 0.0) -> Plane:
        """1 where `distance` is positive, 0 where negative, a ramp of width `soft` between."""
        ramp = distance * np.float32(1 / max(soft, self.soft)) + np.float32(0.5)
        return np.clip(ramp, 0, 1, dtype=np.float32)

    def strokes(self, lines: list[tuple[list[tuple[float, float]], float]], blur: float = 0.0) -> Plane:
        """Polylines of (points, width), drawn solid [M, M]; one point is a disc. `blur` is a share of the picture's side."""
        canvas = Image.new("L", (self.m, self.m))
        pen = ImageDraw.Draw(canvas)
        for points, width in lines:
            pixels = [self.at(*p) for p in points]
            if len(pixels) == 1:
                pen.circle(pixels[0], max(1.0, width * self.unit / 4), fill=255)
            else:
                pen.line(pixels, fill=255, width=max(1, round(width * self.unit / 2)), joint="curve")
        return _plane(canvas.filter(ImageFilter.BoxBlur(max(blur * self.unit, 0.4))))

    def clouds(self, cells: int, rng: np.random.Generator) -> Plane:
        """Smooth noise [M, M] in about 0 to 1, `cells` bumps a side."""
        coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((self.m, self.m), Image.Resampling.BICUBIC), dtype=np.float32)


@dataclass(frozen=True)
class Anatomy:
    """What does not change from one picture of a patient to the next."""

    flesh: Plane  # [M, M] density of the soft parts, lungs filled in
    lung: dict[int, Plane]  # side (-1 patient's right, 1 left) to [M, M] share of lung
    bones: Plane  # [M, M] density of spine, ribs, clavicles
    vessels: Plane  # [M, M] 0..1
    outer: dict[int, Plane]  # side to the chest wall's t at each y [M, 1]
    width: float
    apex: float
    base: dict[int, float]  # y of the top of each diaphragm
    heart_ratio: float  # width of the heart over the chest's
    heart_tilt: float  # radians


@lru_cache(maxsize=4)
def frame_of(size: int) -> Frame:
    """The canvas for pictures of `size` pixels a side."""
    fine = 1.0 if size <= 160 else 0.75  # large pictures: anatomy is soft, only grain has the detail of a pixel
    m = 2 * round(size * MARGIN * fine / 2)
    axis = (((np.arange(m) + 0.5) / m * 2 - 1) * MARGIN).astype(np.float32)
    return Frame(size, m, m / MARGIN, axis[None, :], axis[:, None], np.abs(axis)[None, :], soft=1.5 * 2 * MARGIN / m)


def anatomy(frame: Frame, female: bool, rng: np.random.Generator) -> Anatomy:
    """A body, drawn from `rng`."""
    x, y, t, edge = frame.x, frame.y, frame.t, frame.edge
    width = float(np.clip(rng.normal(0.70, 0.045), 0.58, 0.80))
    apex = float(rng.normal(-0.74, 0.03))
    stout = float(np.clip(rng.normal(0.5, 0.2), 0, 1))
    right = float(np.clip(rng.normal(0.36, 0.07), 0.18, 0.5))
    base = {-1: right, 1: right + float(rng.normal(0.07, 0.025))}
    depth = float(rng.uniform(0.14, 0.24))  # of the costophrenic angle below the dome

    outer, lung = {}, {}
    for side in (-1, 1):
        reach = base[side] + depth - apex
        p = np.clip((y - apex) / reach, 1e-4, 1.15)
        outer[side] = (width * (1 - np.clip(1 - p, 0, 1) ** 2.6) ** 0.52 * (1 - 0.05 * p)).astype(np.float32)
        inner = 0.11 + 0.03 * np.cos(5 * (y - 0.1)) + (0.03 if side == 1 else 0.0)
        over = t - 0.34
        dome = base[side] + np.where(over > 0, depth * (over / (width - 0.34)) ** 2, 0.5 * over**2)
        half = (x * side > 0).astype(np.float32)
        lung[side] = (edge(outer[side] - t) * edge(t - inner, 0.05) * edge(dome - y, 0.02) * half).astype(np.float32)

    # Shoulders that narrow to a neck above, arms cut off below.
    neck = 0.24 + 0.05 * stout
    trunk = width + 0.10 + 0.14 * stout
    rise = np.clip((y + 1.02 + 0.06 * stout) / 0.42, 0, 1)
    half_width = neck + (trunk + 0.22 - neck) * np.sqrt(rise) - 0.22 * np.clip((y + 0.3) / 0.5, 0, 1)
    thick = np.sqrt(np.clip(1 - (t / (half_width + 0.08)) ** 2, 0, 1))
    below = edge(y - 0.45, 0.5)
    flesh = edge(half_width - t, 0.04) * (0.30 + (0.22 + 0.08 * stout) * thick + 0.10 * below * thick)
    if female:
        size, sag = rng.uniform(0.26, 0.36), rng.uniform(0.15, 0.4)
        q = ((t - width * 0.58) / size) ** 2 + ((y - sag) / (size * 0.9)) ** 2
        flesh = flesh + 0.09 * np.clip(1.1 - q, 0, 1) * edge(sag + size * 0.8 - y, 0.1)
    bubble = ((x - 0.36) / 0.13) ** 2 + ((y - base[1] - 0.2) / 0.07) ** 2  # gas in the stomach
    flesh = flesh - 0.16 * float(rng.random() < 0.6) * np.clip(1.3 - bubble, 0, 1)
    airway = edge(0.045 - np.abs(x - 0.015), 0.03) * edge(-0.22 - y, 0.05)
    flesh = flesh + 0.04 * edge(0.16 - t, 0.06) - 0.08 * airway

    return Anatomy(
        flesh=flesh.astype(np.float32),
        lung=lung,
        bones=_bones(frame, width, apex, outer, rng),
        vessels=_vessels(frame, width, rng),
        outer=outer,
        width=width,
        apex=apex,
        base=base,
        heart_ratio=float(np.clip(rng.normal(0.445, 0.025), 0.39, 0.495)),
        heart_tilt=float(rng.normal(0.3, 0.08)),
    )


def _bones(frame: Frame, width: float, apex: float, outer: Mapping[int, Plane], rng: np.random.Generator) -> Plane:
    x, y, t, edge = frame.x, frame.y, frame.t, frame.edge
    gap = float(rng.normal(0.148, 0.008))
    slope, bend = float(rng.uniform(0.12, 0.25)), float(rng.uniform(0.5, 0.8))
    wall = np.where(x < 0, outer[-1], outer[1])
    inside = edge(wall + 0.03 - t, 0.03) * edge(y - apex + 0.02, 0.1) * edge(0.72 - y, 0.3)
    ribs = np.zeros((frame.m, frame.m), dtype=np.float32)
    # Behind: from the spine outwards and down. In front: from the wall inwards and down, fainter.
    for course, weight, share in (
        (slope * t + bend * np.clip(t - 0.25, 0, None) ** 2, 0.085, 0.46),
        (-0.75 * t + 0.3 * t * t + 0.05, 0.045, 0.52),
    ):
        phase = (y - apex - course) * (1 / gap) + 0.25
        off = np.abs(phase - np.floor(phase) - 0.5) * (2 / share)  # 0 in the middle of a rib, 1 at its edge
        band = np.clip((1 - off) * (6 * share), 0, 1)
        ribs += weight * band * (0.55 + 0.45 * off * off)  # the cortex is denser than the marrow
    ribs *= inside * edge(t - 0.08, 0.04)
    beat = 0.8 + 0.2 * np.clip(np.cos(y * (2 * np.pi / (gap * 0.86))) * 3, -1, 1)
    spine = 0.085 * edge(0.088 - np.abs(x), 0.03) * beat
    tilt, high = rng.uniform(0.05, 0.2), apex + rng.uniform(0.1, 0.2)
    lines: list[tuple[list[tuple[float, float]], float]] = []
    for side in (-1, 1):
        span = np.linspace(0.09, width + 0.05, 8).tolist()
        curve = [(side * s, high - tilt * (s - 0.1) + 0.03 * math.sin(8 * s)) for s in span]
        lines.append((curve, 0.055))
    clavicles = 0.10 * frame.strokes(lines, 0.006)
    blade = [
        ([(s * (width - 0.10), apex + 0.15), (s * (width + 0.02), 0.0), (s * (width + 0.08), 0.12)], 0.03)
        for s in (-1, 1)
    ]
    return (ribs + spine + clavicles + 0.05 * frame.strokes(blade, 0.012)).astype(np.float32)


def _vessels(frame: Frame, width: float, rng: np.random.Generator) -> Plane:
    """Branches that leave each hilum and thin out."""
    lines: list[tuple[list[tuple[float, float]], float]] = []
    for side in (-1, 1):
        for angle in np.linspace(-1.25, 1.35, 9) + rng.normal(0, 0.08, 9):
            point, heading, wide = (side * 0.17, 0.0 if side == -1 else -0.04), float(angle), 0.034
            stack = [(point, heading, wide, 0)]
            while stack:
                (px, py), heading, wide, level = stack.pop()
                long = rng.uniform(0.09, 0.17) * width / 0.7
                end = (px + side * long * math.cos(heading), py + long * math.sin(heading))
                lines.append(([(px, py), end], wide))
                if level < 3:
                    stack.append((end, heading + rng.normal(0, 0.15), wide * 0.75, level + 1))
                    if rng.random() < 0.55:
                        stack.append(
                            (end, heading + rng.choice([-1, 1]) * rng.uniform(0.4, 0.8), wide * 0.6, level + 1)
                        )
        lines.append(([(side * 0.16, -0.1), (side * 0.2, 0.02), (side * 0.19, 0.14)], 0.07))
    return frame.strokes(lines, 0.006)


# Findings


def course(frame: Frame, body: Anatomy, name: str, rng: np.random.Generator) -> dict[str, Any]:
    """What is the same in every view of a study: sides, places and shapes of the finding `name`."""
    side = int(rng.choice([-1, 1]))
    if name == "Pleural Effusion":
        return {"sides": [-1, 1] if rng.random() < 0.35 else [side], "share": rng.uniform(0.5, 1.0, 2)}
    if name == "Lung Opacity":
        spots = []
        for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
            y = float(rng.uniform(body.apex + 0.3, body.base[side] - 0.02))
            spots.append(
                (side * float(rng.uniform(0.25, 0.55)), y, float(rng.uniform(0.6, 1.3)), float(rng.uniform(0.8, 1.25)))
            )
            side = -side if rng.random() < 0.5 else side
        return {"spots": spots, "clouds": frame.clouds(18, rng)}
    if name == "Edema":
        return {"clouds": frame.clouds(24, rng)}
    if name == "Support Devices":
        kinds = ["line", "tube", "pacemaker", "leads"]
        count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
        return {
            "side": side,
            "kinds": list(rng.choice(kinds, count, replace=False, p=[0.4, 0.2, 0.15, 0.25])),
            "seed": int(rng.integers(2**31)),
        }
    return {"side": side}


def expose(
    frame: Frame,
    body: Anatomy,
    state: Mapping[str, float],
    look: Mapping[str, dict[str, Any]],
    portable: bool,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.uint8], list[Box]]:
    """One picture [size, size] of the body with the findings in `state`, and the box of each."""
    x, y, t, edge = frame.x, frame.y, frame.t, frame.edge
    masks: list[tuple[str, Plane]] = []

    ratio = body.heart_ratio * (1.05 if portable else 1.0)
    if "Cardiomegaly" in state:
        ratio = 0.54 + 0.12 * state["Cardiomegaly"]
    a, b = ratio * body.width, 0.26 + 0.22 * (ratio - 0.44)
    cx, cy = 0.30 * a, min(body.base.values()) - 0.55 * b
    turn = math.cos(body.heart_tilt), math.sin(body.heart_tilt)
    along, across = (x - cx) * turn[0] + (y - cy) * turn[1], (y - cy) * turn[0] - (x - cx) * turn[1]
    q = np.sqrt((along / a) ** 2 + (across / (b * 1.05)) ** 2)
    heart = edge((1 - q) * b, 0.03)
    if "Cardiomegaly" in state:
        masks.append(("Cardiomegaly", heart))
    breath = float(rng.uniform(0.24, 0.34))  # how dark air makes the picture: deep or shallow breath
    aortic_knob = edge(0.085 - np.sqrt((x - 0.09) ** 2 + (y + 0.3) ** 2), 0.03)
    heart = np.maximum(
        heart,
        np.maximum(aortic_knob, 0.9 * edge(0.12 + 0.10 * np.clip(y + 0.25, 0, 1) - t, 0.05) * edge(cy + 0.1 - y, 0.1)),
    )

    clear = {side: body.lung[side] * (1 - 0.93 * heart) for side in (-1, 1)}
    vessels = body.vessels * float(rng.uniform(0.7, 1.4))
    extra: Plane | float = 0.0
    if "Edema" in state:
        marked = state["Edema"]
        for side in (-1, 1):
            wing = np.exp(-(((x - side * 0.3) / 0.27) ** 2) - ((y - 0.06) / 0.36) ** 2)
            haze = wing * (0.55 + 0.9 * look["Edema"]["clouds"])
            masks.append(("Edema", (wing > 0.45) * body.lung[side]))
            clear[side] = clear[side] * (1 - (0.26 + 0.32 * marked) * np.clip(haze, 0, 1))
        vessels = vessels * (1.4 + 0.7 * marked)
    if "Lung Opacity" in state:
        for sx, sy, wide, tall in look["Lung Opacity"]["spots"]:
            reach = wide * (0.12 + 0.07 * state["Lung Opacity"])
            far = ((x - sx) / reach) ** 2 + ((y - sy) / (reach * tall)) ** 2
            rough = look["Lung Opacity"]["clouds"]
            patch = np.clip(1.5 * np.exp(-0.7 * far) * (0.35 + 1.1 * rough), 0, 1)
            side = -1 if sx < 0 else 1
            masks.append(("Lung Opacity", (far < 1.8) * body.lung[side]))
            clear[side] = clear[side] * (1 - (0.58 + 0.32 * state["Lung Opacity"]) * patch)
    if "Pneumothorax" in state:
        marked, side = state["Pneumothorax"], look["Pneumothorax"]["side"]
        drop = round((0.07 + 0.14 * marked) / (2 * MARGIN) * frame.m)
        sunk = np.concatenate([np.repeat(body.outer[side][:1], drop, 0), body.outer[side][: frame.m - drop]])
        pleura = sunk - (0.07 + 0.13 * marked)
        void = edge(t - pleura) * body.lung[side]
        void = void * edge(body.base[side] + 0.02 - y, 0.1)
        masks.append(("Pneumothorax", void))
        clear[side] = clear[side] * (1 + 0.26 * void - 0.12 * (1 - void) * body.lung[side])
        vessels = vessels * (1 - void)
        extra = 0.13 * edge(0.012 - np.abs(t - pleura)) * body.lung[side] * edge(body.base[side] - y, 0.1)
    if "Pleural Effusion" in state:
        for side, share in zip(look["Pleural Effusion"]["sides"], look["Pleural Effusion"]["share"], strict=False):
            level = body.base[side] + 0.10 - (0.08 + 0.42 * state["Pleural Effusion"]) * float(share)
            meniscus = level - 0.30 * np.clip((t - 0.30) / (body.width - 0.3), 0, 1) ** 2.2 + 0.03
            fluid = edge(y - meniscus, 0.05)
            masks.append(("Pleural Effusion", fluid * body.lung[side]))
            clear[side] = clear[side] * (1 - 0.95 * fluid)

    air = clear[-1] + clear[1]
    density = (
        body.flesh
        + 0.10 * heart * body.flesh
        - breath * air
        + body.bones * (0.55 + 0.45 * air)
        + 0.10 * vessels * air
        + extra
    )
    if "Support Devices" in state:
        for plane, weight in _devices(frame, body, cx, cy, look["Support Devices"]):
            masks.append(("Support Devices", plane))
            density = density + (weight * (0.7 + 0.3 * state["Support Devices"])) * plane
    return _shoot(frame, density.astype(np.float32), masks, portable, rng)


def _devices(
    frame: Frame, body: Anatomy, cx: float, cy: float, look: Mapping[str, Any]
) -> Iterator[tuple[Plane, float]]:
    """Each device's plane [M, M] in 0..1 and its density."""
    rng = np.random.default_rng(look["seed"])
    side, top = look["side"], body.apex
    for kind in look["kinds"]:
        if kind == "line":  # central venous line, from under a clavicle to the right of the spine
            start = (side * rng.uniform(0.35, 0.55), top + rng.uniform(0.05, 0.2))
            path = [start, (side * 0.22, top + 0.16), (-0.06, top + 0.36), (-0.10, rng.uniform(-0.15, 0.1))]
            yield frame.strokes([(_smooth(path), 0.022)]), 0.24
        elif kind == "tube":  # in the airway, or down to the stomach
            if rng.random() < 0.5:
                yield frame.strokes([([(0.015, -1.1), (0.02, rng.uniform(-0.42, -0.28))], 0.05)]), 0.17
            else:
                yield frame.strokes([(_smooth([(0.0, -1.1), (0.03, -0.2), (0.05, 0.35), (0.22, 0.7)]), 0.022)]), 0.22
        elif kind == "pacemaker":
            px, py = 0.48 + rng.uniform(-0.06, 0.06), top + rng.uniform(0.28, 0.38)
            lead = _smooth([(px - 0.05, py), (0.2, top + 0.2), (-0.1, -0.1), (-0.08, cy), (cx + 0.12, cy + 0.12)])
            can = [
                ([(px - 0.03, py), (px + 0.04, py)], 0.17),
                ([(px - 0.03, py)], 0.17),
                ([(px + 0.04, py + 0.005)], 0.18),
            ]
            yield frame.strokes([*can, (lead, 0.020)]), 0.32
        else:  # electrodes of a monitor and their wires
            lines: list[tuple[list[tuple[float, float]], float]] = []
            for ex, ey in [(-0.5, -0.35), (0.5, -0.38), (0.56, 0.3)]:
                ex, ey = ex + rng.uniform(-0.08, 0.08), ey + rng.uniform(-0.1, 0.1)
                lines.append(([(ex, ey)], 0.055))
                lines.append((_smooth([(ex, ey), (ex * 0.7, ey + 0.25), (rng.uniform(-0.3, 0.3), 1.1)]), 0.014))
            yield frame.strokes(lines), 0.24


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The polyline with its corners cut (Chaikin), twice."""
    for _ in range(2):
        cut = [points[0]]
        for (ax, ay), (bx, by) in itertools.pairwise(points):
            cut += [(0.75 * ax + 0.25 * bx, 0.75 * ay + 0.25 * by), (0.25 * ax + 0.75 * bx, 0.25 * ay + 0.75 * by)]
        points = [*cut, points[-1]]
    return points


# The picture


def _shoot(
    frame: Frame, density: Plane, masks: list[tuple[str, Plane]], portable: bool, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], list[Box]]:
    """Turn, shift and size the body in the picture, expose it, and find the findings' boxes there."""
    size, m, fine = frame.size, frame.m, frame.unit / frame.size
    angle = math.radians(rng.normal(0, 3.5 if portable else 1.8))
    zoom = rng.uniform(0.92, 1.09) * (1.04 if portable else 1.0)
    dx, dy = (float(np.clip(rng.normal(0, 0.035), -0.06, 0.06)) * size for _ in range(2))
    c, s = fine * math.cos(angle) / zoom, fine * math.sin(angle) / zoom
    inverse = (
        c,
        s,
        m / 2 - c * (size / 2 + dx) - s * (size / 2 + dy),
        -s,
        c,
        m / 2 + s * (size / 2 + dx) - c * (size / 2 + dy),
    )

    picture = Image.fromarray(density).transform(
        (size, size), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=0.0
    )
    boxes = [(label, *box) for label, mask in masks if (box := _box(mask, inverse, size))]

    value = np.asarray(picture, dtype=np.float32)
    value = value * np.float32(rng.uniform(1.02, 1.32)) + np.float32(rng.uniform(-0.02, 0.07))
    drift = rng.normal(0, 0.05, 2).astype(np.float32)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    value += drift[0] * line[None, :] + drift[1] * line[:, None]  # scatter, and a tube not quite centred
    value = np.clip(value, 0.0, 1.0) ** np.float32(rng.uniform(0.85, 1.3))
    grain = np.float32(rng.uniform(0.018, 0.045) if portable else rng.uniform(0.012, 0.03))
    # Of its own generator: what follows must not depend on the number of pixels.
    value += grain * np.random.default_rng(rng.integers(2**63)).standard_normal((size, size), dtype=np.float32)
    pixels = (np.clip(value, 0, 1) * 255 + 0.5).astype(np.uint8)
    pixels = _marker(pixels, portable, rng)
    return pixels, boxes


def _box(mask: npt.NDArray[Any], inverse: tuple[float, ...], size: int) -> tuple[int, int, int, int] | None:
    """x, y, w, h in the picture of what `mask` [M, M] covers on the canvas; None where nothing of it is in the picture.

    The extremes under an affine map lie among the first and last covered pixels of the rows."""
    solid = mask > 0.3
    rows = np.flatnonzero(solid.any(axis=1))
    if not len(rows):
        return None
    first, last = solid[rows].argmax(axis=1), solid.shape[1] - solid[rows][:, ::-1].argmax(axis=1)
    x, y = np.concatenate([first, first, last, last]), np.concatenate([rows, rows + 1, rows, rows + 1])
    a, b, c, d, e, f = inverse  # picture to canvas
    x, y = x - c, y - f
    back_x, back_y = (e * x - b * y) / (a * e - b * d), (a * y - d * x) / (a * e - b * d)
    left, right = np.clip(np.rint([back_x.min(), back_x.max()]), 0, size).astype(int).tolist()
    top, bottom = np.clip(np.rint([back_y.min(), back_y.max()]), 0, size).astype(int).tolist()
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def _marker(pixels: npt.NDArray[np.uint8], portable: bool, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The lead letter of the side in a corner, and at times the edge of the collimator."""
    size = len(pixels)
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    left = bool(rng.random() < 0.5)
    h, w = size * 0.05, size * 0.03
    px, py = (size * (0.9 if left else 0.06) + rng.normal(0, size * 0.01), size * rng.uniform(0.05, 0.12))
    stem = max(1, round(size * 0.009))
    if left:
        letter = [(px, py), (px, py + h), (px + w, py + h)]
    else:
        letter = [(px, py + h), (px, py), (px + w, py), (px + w, py + h / 2), (px, py + h / 2), (px + w, py + h)]
    pen.line(letter, fill=245, width=stem)
    if rng.random() < (0.3 if portable else 0.15):
        border = int(size * rng.uniform(0.01, 0.05))
        far = size - border
        strips = [(0, 0, border, size), (far, 0, size, size), (0, 0, size, border), (0, far, size, size)]
        pen.rectangle(strips[int(rng.integers(0, 4))], fill=4)
    return np.asarray(picture)


def _plane(canvas: Image.Image) -> Plane:
    return np.asarray(canvas, dtype=np.float32) * np.float32(1 / 255)
