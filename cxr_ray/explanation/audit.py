"""An audit for shortcuts: which share of the relevance lies where, by group, against other images and against random weights.

Marks, letters, borders and leads that go with a label attract relevance in the images that have them. So the shares of a group
are compared with those of all other images, and with those of the same network with random weights on the same images, which shows
what the architecture and the pictures alone attract."""
# N images, P places, G patients, R resamples, H x W pixels of the network's input

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from cxr_ray.errors import UserError
from cxr_ray.explanation.randomisation import cascade
from cxr_ray.metrics.intervals import resample_counts
from cxr_ray.plotting import audit_plots
from cxr_ray.plotting.plots import Figure

GRID = 8
"""Cells a side of the grid in which any place can stand out."""
BORDER, CORNER = 1 / 8, 1 / 5
"""Width of the border and side of the corners, as a share of the image's side."""
MARGIN = 0.05
"""Share of all relevance by which a place must exceed other images to stand out."""
FACTOR = 3.0
"""Ratio to random weights above which a place stands out."""
FEWEST = 5
"""Images that a group and its complement must have."""
Array = npt.NDArray[np.float64]
COLUMNS = (
    "method", "explained", "group", "images", "place", "area", "share", "low", "high", "others", "difference",
    "difference_low", "difference_high", "random", "ratio", "ratio_low", "ratio_high", "stands_out",
)  # fmt: skip


@dataclass(frozen=True)
class Places:
    """Regions and grid cells of an image."""

    names: tuple[str, ...]
    """[P] border, corners, then cells by line and column, from 1."""
    masks: npt.NDArray[np.float32]
    """[P, H * W], 1 inside."""
    shape: tuple[int, int]

    @classmethod
    def of(cls, height: int, width: int) -> "Places":
        y, x = np.mgrid[:height, :width]
        y, x = (y + 0.5) / height, (x + 0.5) / width
        border = np.minimum(np.minimum(y, 1 - y), np.minimum(x, 1 - x)) < BORDER
        corners = (np.minimum(y, 1 - y) < CORNER) & (np.minimum(x, 1 - x) < CORNER)
        cell = (y * GRID).astype(int) * GRID + (x * GRID).astype(int)
        cells = [cell == k for k in range(GRID * GRID)]
        names = [f"line {k // GRID + 1}, column {k % GRID + 1}" for k in range(GRID * GRID)]
        masks = np.stack([border, corners, *cells]).reshape(len(names) + 2, -1).astype(np.float32)
        return cls(("border", "corners", *names), masks, (height, width))

    def shares(self, maps_NHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The share of each map's absolute relevance in each place [N, P]; NaN for a map that is 0 everywhere."""
        flat = np.abs(maps_NHW.reshape(len(maps_NHW), -1))
        with np.errstate(invalid="ignore", divide="ignore"):
            return (flat @ self.masks.T) / flat.sum(axis=1, keepdims=True)

    @property
    def areas(self) -> Array:
        """Each place's share of the pixels [P]."""
        return self.masks.mean(axis=1, dtype=np.float64)


@dataclass
class Shares:
    """Shares of one method for one explained label, collected batch by batch."""

    places: Places
    trained: list[npt.NDArray[np.float32]] = field(default_factory=list)
    random: list[npt.NDArray[np.float32]] = field(default_factory=list)
    outside: list[npt.NDArray[np.float32]] = field(default_factory=list)
    sums: dict[str, Array] = field(default_factory=dict)
    """Group to the sum of its images' maps [H, W], each map divided by its own total."""
    counts: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        maps_NHW: npt.NDArray[Any],
        random_NHW: npt.NDArray[Any],
        groups: Mapping[str, npt.NDArray[np.bool_]],
        lungs_NHW: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """`groups`: which images of the batch are in each group [N]. `lungs_NHW`: masks of the lungs, empty where there is none."""
        self.trained.append(self.places.shares(maps_NHW))
        self.random.append(self.places.shares(random_NHW))
        if lungs_NHW is not None:
            pair = [_outside(maps, lungs_NHW) for maps in (maps_NHW, random_NHW)]
            self.outside.append(np.stack(pair, axis=1).astype(np.float32))
        flat = np.abs(maps_NHW.astype(np.float64))
        total = flat.sum(axis=(1, 2), keepdims=True)
        shares = np.divide(flat, total, out=np.zeros_like(flat), where=total > 0)
        for name, inside_N in groups.items():
            self.sums[name] = self.sums.get(name, 0.0) + shares[inside_N].sum(axis=0)
            self.counts[name] = self.counts.get(name, 0) + int(inside_N.sum())

    def tables(self) -> tuple[tuple[str, ...], Array, Array, Array]:
        """Names and areas of the places [P], shares of the trained and the random network [N, P]."""
        trained, random = np.concatenate(self.trained), np.concatenate(self.random)
        names, areas = self.places.names, self.places.areas
        if self.outside:
            outside = np.concatenate(self.outside)
            trained, random = np.c_[trained, outside[:, 0]], np.c_[random, outside[:, 1]]
            names, areas = (*names, "outside the lungs"), np.r_[areas, np.nan]
        return names, areas, trained.astype(np.float64), random.astype(np.float64)


@dataclass(frozen=True, repr=False)
class Audit:
    """The result. A notebook shows the mean maps and what stands out."""

    model: str
    table: pd.DataFrame
    """A row per method, group and place: `COLUMNS`. Intervals are 95%, by patient, and simultaneous over all places."""
    maps: Mapping[str, Mapping[str, Array]]
    """Method to the mean share map [H, W] of each group."""
    notes: Sequence[str] = ()

    @property
    def found(self) -> pd.DataFrame:
        """The rows that stand out, largest excess first."""
        return self.table[self.table["stands_out"] != ""].sort_values("difference", ascending=False)

    @property
    def verdict(self) -> str:
        """Where relevance stands out, that it does not, or that nothing could be compared."""
        if self.table.empty:
            return (
                f"Nothing could be compared: no group has {FEWEST} images or more. Audit more images, or another part."
            )
        if self.found.empty:
            return (
                f"No place stands out: none has over {MARGIN:.0%} more of the relevance than in other images, or over {FACTOR:g} times "
                "that of random weights. That does not exclude shortcuts that are everywhere or move about."
            )
        first, count = self.found.iloc[0], len(self.found)
        others = "" if np.isnan(first["others"]) else f", in other images {first['others']:.0%}"
        area = "" if np.isnan(first["area"]) else f" in {first['area']:.0%} of the image"
        return (
            f"{count} place{'s stand' if count > 1 else ' stands'} out, first {first['place']} for {first['group']}: {first['share']:.0%} of "
            f"the relevance ({first['low']:.0%} to {first['high']:.0%}){area}{others}, with random weights {first['random']:.0%}. "
            "Look at these images there."
        )

    def figure(self, method: str | None = None) -> Figure:
        """The mean maps of all groups on one scale, with the places that stand out framed."""
        name = method or next(iter(self.maps))
        if name not in self.maps:
            raise UserError(f"the audit has no method {name!r}; it has {', '.join(self.maps)}")
        found = self.found[self.found["method"] == name]
        frames = {str(group): of["place"].tolist() for group, of in found.groupby("group")}
        return audit_plots.mean_maps(self.maps[name], frames, grid=GRID, title=f"{self.model}: mean maps of {name}")

    def __repr__(self) -> str:
        return f"Audit({self.model}: {len(self.found)} places stand out in {self.table['group'].nunique()} groups)"

    def _repr_html_(self) -> str:
        from cxr_ray.metrics.label_table import card
        from cxr_ray.plotting.run_figures import image

        shown = self.found.head(20).to_html(index=False, border=0, float_format="{:.3f}".format)
        return card(repr(self), image(self.figure()), shown, about=self.verdict)


def mean_of(each: Sequence[Shares]) -> Shares:
    """The mean shares of the same images over several explained labels, without mean maps."""
    out = Shares(each[0].places)
    for kind in ("trained", "random", "outside"):
        tables = [np.concatenate(getattr(one, kind)) for one in each if getattr(one, kind)]
        if tables:
            setattr(out, kind, [np.mean(tables, axis=0)])
    return out


def compare(
    shares: Shares,
    groups: Mapping[str, npt.NDArray[np.bool_]],
    patient_N: npt.NDArray[Any],
    *,
    method: str,
    explained: str,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A row per group and place. `groups`: which of all images are in each group [N]; `patient_N`: whose image it is.

    The interval of a difference or ratio is estimate -+ c x its bootstrap error, with the c that 95% of the resamples of whole
    patients satisfy at all places at once (max-t; Westfall and Young 1993, chapter 2), since the places were not chosen before."""
    names, areas, trained_NP, random_NP = shares.tables()
    code_N = np.unique(np.asarray(patient_N).astype(str), return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    counts_RG = np.concatenate(list(resample_counts(int(code_N.max()) + 1, resamples, rng, at_once=resamples)))
    out: list[dict[str, Any]] = []
    for group, inside_N in groups.items():
        if inside_N.sum() < FEWEST:
            continue
        has_others = (~inside_N).sum() >= FEWEST
        mean = _Means(code_N, counts_RG)
        share, share_R = mean(trained_NP, inside_N)
        random, random_R = mean(random_NP, inside_N)
        others, others_R = (
            mean(trained_NP, ~inside_N) if has_others else (np.full(len(names), np.nan), np.full_like(share_R, np.nan))
        )
        low, high = _simultaneous(share, share_R)
        difference_low, difference_high = _simultaneous(share - others, share_R - others_R)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_ratio, log_ratio_R = np.log(share / random), np.log(share_R / random_R)
        ratio_low, ratio_high = (np.exp(end) for end in _simultaneous(log_ratio, log_ratio_R))
        for p, place in enumerate(names):
            reasons = [
                *(["more than other images"] if difference_low[p] > MARGIN else []),
                *(["more than random weights"] if ratio_low[p] > FACTOR and low[p] > MARGIN else []),
            ]
            values = (
                method, explained, group, int(inside_N.sum()), place, areas[p], share[p], max(low[p], 0.0), high[p], others[p],
                share[p] - others[p], difference_low[p], difference_high[p], random[p], float(np.exp(log_ratio[p])),
                ratio_low[p], ratio_high[p], " and ".join(reasons),
            )  # fmt: skip
            out.append(dict(zip(COLUMNS, values, strict=True)))
    return out


def randomised(network: nn.Module) -> nn.Module:
    """A copy of the network with the values of every weight tensor shuffled (`randomisation.cascade`, its last stage)."""
    ((_, out),) = deque(cascade(network, stages=2), maxlen=1)
    return out.eval()


class _Means:
    """Means over groups of images, on all images and on each resample of patients."""

    def __init__(self, code_N: npt.NDArray[np.int64], counts_RG: Array) -> None:
        self._code_N, self._counts_RG = code_N, counts_RG

    def __call__(self, shares_NP: Array, inside_N: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
        known_NP = ~np.isnan(shares_NP) & inside_N[:, None]
        filled = np.where(known_NP, shares_NP, 0.0)
        patients = self._counts_RG.shape[1]
        sums_GP, known_GP = np.zeros((patients, filled.shape[1])), np.zeros((patients, filled.shape[1]))
        np.add.at(sums_GP, self._code_N, filled)
        np.add.at(known_GP, self._code_N, known_NP.astype(np.float64))
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums_GP.sum(0) / known_GP.sum(0), (self._counts_RG @ sums_GP) / (self._counts_RG @ known_GP)


def _simultaneous(value_P: Array, sample_RP: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Interval of each value such that the share `level` of resamples lies in all of them."""
    usable_R = np.isfinite(sample_RP).all(axis=1)
    if usable_R.sum() < 0.9 * len(sample_RP):
        return np.full_like(value_P, np.nan), np.full_like(value_P, np.nan)
    sample = sample_RP[usable_R]
    error_P = sample.std(axis=0)
    safe_P = np.where(error_P > 0, error_P, np.inf)
    widest_R = (np.abs(sample - value_P) / safe_P).max(axis=1)
    half_P = np.quantile(widest_R, level) * error_P
    return value_P - half_P, value_P + half_P


def _outside(maps_NHW: npt.NDArray[Any], lungs_NHW: npt.NDArray[np.bool_]) -> Array:
    """The share of relevance outside the lungs [N]; NaN where there is no mask."""
    flat, lungs = np.abs(maps_NHW.astype(np.float64)), lungs_NHW.astype(bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (flat * ~lungs).sum(axis=(1, 2)) / flat.sum(axis=(1, 2))
    return np.where(lungs.any(axis=(1, 2)), share, np.nan)
