"""Draws one synthetic chest X-ray: a body, its findings, and the image of both. Knows neither files nor label cells."""
# Coordinates: x to the right (the patient's left), y down, about -1..1 over the image; t = |x|, the distance from the midline.
# The canvas has M x M pixels. It is wider than the image, so that a rotation shows no edge. Densities: 0 air, 1 metal.

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
"""Side of the canvas divided by the side of the image."""

Plane = npt.NDArray[np.float32]
Box = tuple[str, int, int, int, int]
"""Label, x, y, w, h in pixels of the image."""


@dataclass(frozen=True)
class Canvas:
    """The canvas for images of `size` x `size` pixels: coordinates of its pixels, and drawing on it."""

    size: int
    m: int
    unit: float  # canvas pixels per side of the image
    x: Plane  # [1, M]
    y: Plane  # [M, 1]
    t: Plane  # [1, M]
    soft: float  # width of an edge: 1.5 pixels

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Position of a point in canvas pixels."""
        return (x / MARGIN + 1) * self.m / 2, (y / MARGIN + 1) * self.m / 2

    def edge(self, distance: npt.NDArray[Any], soft: float = 0.0) -> Plane:
        """1 where `distance` is positive, 0 where it is negative, with a ramp of width `soft` between."""
        ramp = distance * np.float32(1 / max(soft, self.soft)) + np.float32(0.5)
        return np.clip(ramp, 0, 1, dtype=np.float32)

    def strokes(self, lines: list[tuple[list[tuple[float, float]], float]], blur: float = 0.0) -> Plane:
        """Polylines of (points, width) as a mask [M, M]; one point is a disc. `blur` is a fraction of the image's side."""
        drawn = Image.new("L", (self.m, self.m))
        pen = ImageDraw.Draw(drawn)
        for points, width in lines:
            pixels = [self.at(*p) for p in points]
            if len(pixels) == 1:
                pen.circle(pixels[0], max(1.0, width * self.unit / 4), fill=255)
            else:
                pen.line(pixels, fill=255, width=max(1, round(width * self.unit / 2)), joint="curve")
        return _plane(drawn.filter(ImageFilter.BoxBlur(max(blur * self.unit, 0.4))))

    def clouds(self, cells: int, rng: np.random.Generator) -> Plane:
        """Smooth noise [M, M] of about 0 to 1, with `cells` bumps per side."""
        coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((self.m, self.m), Image.Resampling.BICUBIC), dtype=np.float32)


@dataclass(frozen=True)
class Anatomy:
    """What all images of a patient have in common."""

    flesh: Plane  # [M, M] density of soft tissue, with the lungs filled
    lung: dict[int, Plane]  # side (-1 patient's right, 1 left) to [M, M] fraction of lung
    bones: Plane  # [M, M] density of spine, ribs, clavicles
    vessels: Plane  # [M, M] 0..1
    outer: dict[int, Plane]  # side to the chest wall's t at each y [M, 1]
    width: float
    apex: float
    base: dict[int, float]  # y of the top of each diaphragm
    heart_ratio: float  # width of the heart divided by that of the chest
    heart_tilt: float  # radians


@lru_cache(maxsize=4)
def canvas_of(size: int) -> Canvas:
    """The canvas for images of `size` x `size` pixels."""
    fine = 1.0 if size <= 160 else 0.75  # in large images anatomy is smooth: only the noise has detail of one pixel
    m = 2 * round(size * MARGIN * fine / 2)
    axis = (((np.arange(m) + 0.5) / m * 2 - 1) * MARGIN).astype(np.float32)
    return Canvas(size, m, m / MARGIN, axis[None, :], axis[:, None], np.abs(axis)[None, :], soft=1.5 * 2 * MARGIN / m)


def draw_anatomy(canvas: Canvas, female: bool, rng: np.random.Generator) -> Anatomy:
    """A random body."""
    x, y, t, edge = canvas.x, canvas.y, canvas.t, canvas.edge
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

    # Shoulders narrow to a neck above; arms are cut off below.
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
        bones=_bones(canvas, width, apex, outer, rng),
        vessels=_vessels(canvas, width, rng),
        outer=outer,
        width=width,
        apex=apex,
        base=base,
        heart_ratio=float(np.clip(rng.normal(0.445, 0.025), 0.39, 0.495)),
        heart_tilt=float(rng.normal(0.3, 0.08)),
    )


def _bones(canvas: Canvas, width: float, apex: float, outer: Mapping[int, Plane], rng: np.random.Generator) -> Plane:
    x, y, t, edge = canvas.x, canvas.y, canvas.t, canvas.edge
    gap = float(rng.normal(0.148, 0.008))
    slope, bend = float(rng.uniform(0.12, 0.25)), float(rng.uniform(0.5, 0.8))
    wall = np.where(x < 0, outer[-1], outer[1])
    inside = edge(wall + 0.03 - t, 0.03) * edge(y - apex + 0.02, 0.1) * edge(0.72 - y, 0.3)
    ribs = np.zeros((canvas.m, canvas.m), dtype=np.float32)
    # Posterior ribs: from the spine outwards and down. Anterior ribs: from the wall inwards and down, fainter.
    for offset, weight, share in (
        (slope * t + bend * np.clip(t - 0.25, 0, None) ** 2, 0.085, 0.46),
        (-0.75 * t + 0.3 * t * t + 0.05, 0.045, 0.52),
    ):
        phase = (y - apex - offset) * (1 / gap) + 0.25
        off = np.abs(phase - np.floor(phase) - 0.5) * (2 / share)  # 0 at the middle of a rib, 1 at its edge
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
    clavicles = 0.10 * canvas.strokes(lines, 0.006)
    blade = [
        ([(s * (width - 0.10), apex + 0.15), (s * (width + 0.02), 0.0), (s * (width + 0.08), 0.12)], 0.03)
        for s in (-1, 1)
    ]
    return (ribs + spine + clavicles + 0.05 * canvas.strokes(blade, 0.012)).astype(np.float32)


def _vessels(canvas: Canvas, width: float, rng: np.random.Generator) -> Plane:
    """Branches from each hilum that become thinner."""
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
    return canvas.strokes(lines, 0.006)


# Findings


def place_finding(canvas: Canvas, body: Anatomy, name: str, rng: np.random.Generator) -> dict[str, Any]:
    """Sides, positions and shapes of the finding `name`, which are equal in all views of a study."""
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
        return {"spots": spots, "clouds": canvas.clouds(18, rng)}
    if name == "Edema":
        return {"clouds": canvas.clouds(24, rng)}
    if name == "Support Devices":
        kinds = ["line", "tube", "pacemaker", "leads"]
        count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
        return {
            "side": side,
            "kinds": list(rng.choice(kinds, count, replace=False, p=[0.4, 0.2, 0.15, 0.25])),
            "seed": int(rng.integers(2**31)),
        }
    return {"side": side}


def render(
    canvas: Canvas,
    body: Anatomy,
    state: Mapping[str, float],
    placements: Mapping[str, dict[str, Any]],
    portable: bool,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.uint8], list[Box]]:
    """One image [size, size] of the body with the findings in `state` (to severity), and the box of each finding."""
    x, y, t, edge = canvas.x, canvas.y, canvas.t, canvas.edge
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
    breath = float(rng.uniform(0.24, 0.34))  # how dark air is in the image: deep or shallow breath
    aortic_arch = edge(0.085 - np.sqrt((x - 0.09) ** 2 + (y + 0.3) ** 2), 0.03)
    heart = np.maximum(
        heart,
        np.maximum(aortic_arch, 0.9 * edge(0.12 + 0.10 * np.clip(y + 0.25, 0, 1) - t, 0.05) * edge(cy + 0.1 - y, 0.1)),
    )

    clear = {side: body.lung[side] * (1 - 0.93 * heart) for side in (-1, 1)}
    vessels = body.vessels * float(rng.uniform(0.7, 1.4))
    extra: Plane | float = 0.0
    if "Edema" in state:
        severity = state["Edema"]
        for side in (-1, 1):
            wing = np.exp(-(((x - side * 0.3) / 0.27) ** 2) - ((y - 0.06) / 0.36) ** 2)
            haze = wing * (0.55 + 0.9 * placements["Edema"]["clouds"])
            masks.append(("Edema", (wing > 0.45) * body.lung[side]))
            clear[side] = clear[side] * (1 - (0.26 + 0.32 * severity) * np.clip(haze, 0, 1))
        vessels = vessels * (1.4 + 0.7 * severity)
    if "Lung Opacity" in state:
        for sx, sy, wide, tall in placements["Lung Opacity"]["spots"]:
            reach = wide * (0.12 + 0.07 * state["Lung Opacity"])
            far = ((x - sx) / reach) ** 2 + ((y - sy) / (reach * tall)) ** 2
            rough = placements["Lung Opacity"]["clouds"]
            patch = np.clip(1.5 * np.exp(-0.7 * far) * (0.35 + 1.1 * rough), 0, 1)
            side = -1 if sx < 0 else 1
            masks.append(("Lung Opacity", (far < 1.8) * body.lung[side]))
            clear[side] = clear[side] * (1 - (0.58 + 0.32 * state["Lung Opacity"]) * patch)
    if "Pneumothorax" in state:
        severity, side = state["Pneumothorax"], placements["Pneumothorax"]["side"]
        drop = round((0.07 + 0.14 * severity) / (2 * MARGIN) * canvas.m)
        sunk = np.concatenate([np.repeat(body.outer[side][:1], drop, 0), body.outer[side][: canvas.m - drop]])
        pleura = sunk - (0.07 + 0.13 * severity)
        void = edge(t - pleura) * body.lung[side]
        void = void * edge(body.base[side] + 0.02 - y, 0.1)
        masks.append(("Pneumothorax", void))
        clear[side] = clear[side] * (1 + 0.26 * void - 0.12 * (1 - void) * body.lung[side])
        vessels = vessels * (1 - void)
        extra = 0.13 * edge(0.012 - np.abs(t - pleura)) * body.lung[side] * edge(body.base[side] - y, 0.1)
    if "Pleural Effusion" in state:
        for side, share in zip(
            placements["Pleural Effusion"]["sides"], placements["Pleural Effusion"]["share"], strict=False
        ):
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
        for plane, weight in _devices(canvas, body, cx, cy, placements["Support Devices"]):
            masks.append(("Support Devices", plane))
            density = density + (weight * (0.7 + 0.3 * state["Support Devices"])) * plane
    return _project(canvas, density.astype(np.float32), masks, portable, rng)


def _devices(
    canvas: Canvas, body: Anatomy, cx: float, cy: float, placement: Mapping[str, Any]
) -> Iterator[tuple[Plane, float]]:
    """Yields each device's mask [M, M] in 0..1 and its density."""
    rng = np.random.default_rng(placement["seed"])
    side, top = placement["side"], body.apex
    for kind in placement["kinds"]:
        if kind == "line":  # central venous line, from under a clavicle to the right of the spine
            start = (side * rng.uniform(0.35, 0.55), top + rng.uniform(0.05, 0.2))
            path = [start, (side * 0.22, top + 0.16), (-0.06, top + 0.36), (-0.10, rng.uniform(-0.15, 0.1))]
            yield canvas.strokes([(_smooth(path), 0.022)]), 0.24
        elif kind == "tube":  # in the airway, or down to the stomach
            if rng.random() < 0.5:
                yield canvas.strokes([([(0.015, -1.1), (0.02, rng.uniform(-0.42, -0.28))], 0.05)]), 0.17
            else:
                yield canvas.strokes([(_smooth([(0.0, -1.1), (0.03, -0.2), (0.05, 0.35), (0.22, 0.7)]), 0.022)]), 0.22
        elif kind == "pacemaker":
            px, py = 0.48 + rng.uniform(-0.06, 0.06), top + rng.uniform(0.28, 0.38)
            lead = _smooth([(px - 0.05, py), (0.2, top + 0.2), (-0.1, -0.1), (-0.08, cy), (cx + 0.12, cy + 0.12)])
            can = [
                ([(px - 0.03, py), (px + 0.04, py)], 0.17),
                ([(px - 0.03, py)], 0.17),
                ([(px + 0.04, py + 0.005)], 0.18),
            ]
            yield canvas.strokes([*can, (lead, 0.020)]), 0.32
        else:  # electrodes of a monitor and their wires
            lines: list[tuple[list[tuple[float, float]], float]] = []
            for ex, ey in [(-0.5, -0.35), (0.5, -0.38), (0.56, 0.3)]:
                ex, ey = ex + rng.uniform(-0.08, 0.08), ey + rng.uniform(-0.1, 0.1)
                lines.append(([(ex, ey)], 0.055))
                lines.append((_smooth([(ex, ey), (ex * 0.7, ey + 0.25), (rng.uniform(-0.3, 0.3), 1.1)]), 0.014))
            yield canvas.strokes(lines), 0.24


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The polyline after two rounds of corner cutting (Chaikin)."""
    for _ in range(2):
        cut = [points[0]]
        for (ax, ay), (bx, by) in itertools.pairwise(points):
            cut += [(0.75 * ax + 0.25 * bx, 0.75 * ay + 0.25 * by), (0.25 * ax + 0.75 * bx, 0.25 * ay + 0.75 * by)]
        points = [*cut, points[-1]]
    return points


# Image


def _project(
    canvas: Canvas, density: Plane, masks: list[tuple[str, Plane]], portable: bool, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], list[Box]]:
    """Rotate, shift and scale the body, expose the image, and compute the boxes of the findings in it."""
    size, m, fine = canvas.size, canvas.m, canvas.unit / canvas.size
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

    image = Image.fromarray(density).transform(
        (size, size), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=0.0
    )
    boxes = [(label, *box) for label, mask in masks if (box := mask_box(mask, inverse, size))]

    value = np.asarray(image, dtype=np.float32)
    value = value * np.float32(rng.uniform(1.02, 1.32)) + np.float32(rng.uniform(-0.02, 0.07))
    drift = rng.normal(0, 0.05, 2).astype(np.float32)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    value += drift[0] * line[None, :] + drift[1] * line[:, None]  # scatter, and a tube that is not quite centred
    value = np.clip(value, 0.0, 1.0) ** np.float32(rng.uniform(0.85, 1.3))
    grain = np.float32(rng.uniform(0.018, 0.045) if portable else rng.uniform(0.012, 0.03))
    # A generator of its own: later random numbers must not depend on the number of pixels.
    value += grain * np.random.default_rng(rng.integers(2**63)).standard_normal((size, size), dtype=np.float32)
    pixels = (np.clip(value, 0, 1) * 255 + 0.5).astype(np.uint8)
    pixels = _marker(pixels, portable, rng)
    return pixels, boxes


def mask_box(mask: npt.NDArray[Any], inverse: tuple[float, ...], size: int) -> tuple[int, int, int, int] | None:
    """The bounding box x, y, w, h in the image of `mask` [M, M] on the canvas; None if the mask is outside the image.

    `inverse` is the affine map (a, b, c, d, e, f) from image to canvas. Only the first and last pixel of the mask in each row
    can be extreme under an affine map."""
    solid = mask > 0.3
    rows = np.flatnonzero(solid.any(axis=1))
    if not len(rows):
        return None
    first, last = solid[rows].argmax(axis=1), solid.shape[1] - solid[rows][:, ::-1].argmax(axis=1)
    x, y = np.concatenate([first, first, last, last]), np.concatenate([rows, rows + 1, rows, rows + 1])
    a, b, c, d, e, f = inverse  # image to canvas
    x, y = x - c, y - f
    back_x, back_y = (e * x - b * y) / (a * e - b * d), (a * y - d * x) / (a * e - b * d)
    left, right = np.clip(np.rint([back_x.min(), back_x.max()]), 0, size).astype(int).tolist()
    top, bottom = np.clip(np.rint([back_y.min(), back_y.max()]), 0, size).astype(int).tolist()
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def _marker(pixels: npt.NDArray[np.uint8], portable: bool, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draws the side marker (L or R) in a corner, and sometimes the edge of the collimator."""
    size = len(pixels)
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
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
    return np.asarray(image)


def _plane(drawn: Image.Image) -> Plane:
    return np.asarray(drawn, dtype=np.float32) * np.float32(1 / 255)
