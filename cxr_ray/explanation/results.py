"""The maps of a model for some images as an object that shows itself. Nothing is computed or written here."""
# N maps: an image and an explained output each. S of them have pictures. H x W pixels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.errors import UserError
from cxr_ray.explanation.explainer import CERTIFICATE, MapBatch
from cxr_ray.plotting import explanation_plots as plots
from cxr_ray.plotting.explanation_plots import Caption, Scale
from cxr_ray.plotting.plots import Figure
from cxr_ray.plotting.run_figures import Draw, images, pick

SHOWN = 32
"""Maps that figures and pages show at most (the notebook's number of images)."""
SIDE_BY_SIDE, GRID = 6, 6
"""Images in the figure of methods side by side, and in a grid of pictures over maps."""
TERMS = ("relevance", "bias", "clip", "epsilon")
"""What a certificate divides the logit into."""
MOST = 0.5
"""Share of the relevance from which on a method's stabiliser took most of it."""


@dataclass(frozen=True, repr=False)
class Explanation:
    """Maps by method, with certificates where a method has them. A notebook shows the methods side by side."""

    model: str
    """Name of the run or file."""
    images: npt.NDArray[np.uint8]
    """[S, H, W], the pictures of the first S maps, as the network sees them: all of them, or `SHOWN` if written to a folder."""
    maps: Mapping[str, npt.NDArray[np.float32]]
    """Method to [N, H, W]; of an ensemble also METHOD/MEMBER, and METHOD is their mean."""
    rows: npt.NDArray[np.int64]
    """[N], row numbers of the store, or positions among the given images."""
    labels: Sequence[str]
    """[N], the explained label of each map."""
    logits: npt.NDArray[np.float32]
    """[N]"""
    probabilities: npt.NDArray[np.float32]
    """[N]"""
    certificates: pd.DataFrame
    """method, row, label, logit, relevance, bias, clip, epsilon, adds_up: a row per map of a method that distributes the logit."""
    identities: Mapping[str, str] = field(default_factory=dict)
    """Method to the identity that its certificates state."""
    scores: pd.DataFrame | None = field(default=None, compare=False)
    """With annotations: a row per method and, first, the location prior; a column per score."""
    verdict: str = ""
    """With annotations: one sentence whether to trust the maps."""
    page: Path | None = field(default=None, compare=False)
    """explain.html, if it was written."""
    scale: float | None = None
    """End of the colour scales; None: a quantile of each method's values."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def table(self) -> pd.DataFrame:
        """A row per map: row, label, probability, logit, then the total relevance by method (the sum of the map)."""
        return self.head(len(self))

    def head(self, most: int) -> pd.DataFrame:
        """The first rows of `table`; the other maps are not read."""
        columns = {
            "row": self.rows[:most],
            "label": list(self.labels[:most]),
            "probability": self.probabilities[:most],
            "logit": self.logits[:most],
        }
        totals = {
            method: [float(one.sum(dtype=np.float64)) for one in maps[:most]] for method, maps in self.maps.items()
        }
        return pd.DataFrame({**columns, **totals})

    @property
    def failed(self) -> pd.DataFrame:
        """The certificates that do not hold."""
        return self.certificates[~self.certificates["adds_up"].astype(bool)]

    @cached_property
    def division(self) -> pd.DataFrame:
        """Where the logit went, a row per method with certificates: number of maps, how many hold, means of the logit and its terms,
        and `absorbed`, the mean share of the stabiliser in the absolute terms of a map."""
        table = self.certificates
        terms = table[list(TERMS)].abs()
        absorbed = (terms["epsilon"] / terms.sum(axis=1)).fillna(0.0)
        groups = table.assign(absorbed=absorbed).groupby("method", sort=False)
        means = groups[["logit", *TERMS, "absorbed"]].mean()
        means.insert(0, "maps", groups.size())
        means.insert(1, "holds", groups["adds_up"].sum().astype(int))
        return means

    @property
    def warnings(self) -> list[str]:
        """A sentence for each method whose stabiliser took most of the relevance: its certificates hold, and its maps show little."""
        return [
            f"{method}: the stabiliser absorbed {row.absorbed:.0%} of the relevance, so these maps show little of the logit; choose a "
            "smaller epsilon or another method"
            for method, row in self.division.iterrows()
            if row.absorbed > MOST
        ]

    def figure(self, name: str = "side_by_side") -> Figure:
        """A matplotlib figure: side_by_side, overlays-METHOD, grid-METHOD or, with several labels, labels-METHOD. Raises
        `UserError` with the names that there are."""
        return pick(self.figures(), name, where=f" of the explanation of {self.model}")

    def figures(self) -> dict[str, Draw]:
        """Every figure by its name, not drawn yet."""
        out: dict[str, Draw] = {"side_by_side": self._side_by_side}
        for method in self.maps:
            if "/" not in method:  # members of an ensemble have their columns in the first figure
                out[f"overlays-{method}"] = partial(self._overlays, method)
                out[f"grid-{method}"] = partial(self._grid, method)
        if len(dict.fromkeys(self.labels)) > 1 and len(set(self.rows.tolist())) < len(self):
            out |= {f"labels-{method}": partial(self._by_label, method) for method in self.maps if "/" not in method}
        return out

    def shown(self, most: int = SHOWN) -> slice:
        """The maps that a figure of at most `most` shows."""
        return slice(0, min(most, len(self.images)))

    @cached_property
    def scales(self) -> dict[str, Scale]:
        """The colours of each method: one scale for all its maps that are shown."""
        return {method: Scale.of(maps[self.shown()], self.scale) for method, maps in self.maps.items()}

    def caption(self, method: str, n: int) -> Caption:
        """Total relevance alongside the logit for a signed map; the label for others."""
        total = float(self.maps[method][n].sum(dtype=np.float64))
        failed = self.is_failed(method, n)
        text = f"sum {total:.3g}, logit {self.logits[n]:.3g}" if self.scales[method].signed else ""
        return Caption((text + ("\ndoes not add up" if failed else "")).replace("-", "−"), failed)

    def is_failed(self, method: str, n: int) -> bool:
        """Whether the certificate of a map does not hold; of an ensemble's mean, that of any member."""
        return (int(self.rows[n]), self.labels[n]) in self._failures.get(method, set())

    @cached_property
    def _failures(self) -> dict[str, set[tuple[int, str]]]:
        out: dict[str, set[tuple[int, str]]] = {}
        for method, row, label in self.failed[["method", "row", "label"]].itertuples(index=False):
            for key in (method, method.partition("/")[0]):
                out.setdefault(key, set()).add((int(row), str(label)))
        return out

    def _title(self, n: int) -> str:
        return f"row {self.rows[n]}\n{_shorten(self.labels[n])}, p = {self.probabilities[n]:.2f}"

    def _side_by_side(self) -> Figure:
        at = self.shown(SIDE_BY_SIDE)
        return plots.side_by_side(
            self.images[at],
            {method: maps[at] for method, maps in self.maps.items()},
            [self._title(n) for n in range(at.stop)],
            {method: [self.caption(method, n) for n in range(at.stop)] for method in self.maps},
            title=f"{self.model}: methods side by side",
            scales=self.scales,
        )

    def _overlays(self, method: str) -> Figure:
        at = self.shown()
        captions = [_joined(self._title(n), self.caption(method, n)) for n in range(at.stop)]
        return plots.overlays(
            self.images[at],
            self.maps[method][at],
            captions,
            title=f"{self.model}: {method}",
            name=method,
            scale=self.scales[method],
        )

    def _grid(self, method: str) -> Figure:
        at = self.shown(GRID)
        return plots.picture_grid(
            self.images[at],
            self.maps[method][at],
            [self._title(n) for n in range(at.stop)],
            [self.caption(method, n) for n in range(at.stop)],
            title=f"{self.model}: pictures over maps of {method}",
            name=method,
            scale=self.scales[method],
        )

    def _by_label(self, method: str) -> Figure:
        """The first image that has several maps, a map per label."""
        row = self.rows[0]
        at = [n for n in range(self.shown().stop) if self.rows[n] == row]
        return plots.overlays(
            self.images[at],
            self.maps[method][at],
            [_joined(self._title(n), self.caption(method, n)) for n in at],
            title=f"{self.model}: {method} by label, row {row}",
            name=method,
            scale=self.scales[method],
        )

    def __repr__(self) -> str:
        failures = len(self.failed)
        failed = f", {failures} map{'s do' if failures > 1 else ' does'} not add up" if failures else ""
        images = len(dict.fromkeys(self.rows.tolist()))
        return f"Explanation({self.model}: {images} image{'s' if images != 1 else ''}, {', '.join(self.maps)}{failed})"

    def _repr_html_(self) -> str:
        from cxr_ray.metrics.label_table import card

        table = self.head(SHOWN).to_html(index=False, border=0, float_format="{:.3f}".format)
        about = "; ".join(
            [*self.warnings, *([self.verdict] if self.verdict else []), *([f"page: {self.page}"] if self.page else [])]
        )
        return card(repr(self), images(self.figures(), ["side_by_side"]), table, about=about)


def collect(model: str, batches: Sequence[MapBatch], *, scale: float | None = None) -> Explanation:
    """One explanation of all batches, in memory. Raises `UserError` if there is no image."""
    if not batches:
        raise UserError("there is no image to explain")
    join = np.concatenate
    return Explanation(
        model=model,
        images=join([b.images for b in batches]),
        maps={key: join([b.maps[key] for b in batches]) for key in batches[0].maps},
        rows=join([b.rows for b in batches]),
        labels=[label for b in batches for label in b.labels],
        logits=join([b.logits for b in batches]),
        probabilities=join([b.probabilities for b in batches]),
        certificates=certificate_table([row for b in batches for row in b.certificates]),
        identities=batches[0].identities,
        scale=scale,
    )


def certificate_table(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Certificates by method, in the order of the methods and of the maps."""
    table = pd.DataFrame(rows, columns=list(CERTIFICATE))
    order = {method: at for at, method in enumerate(dict.fromkeys(table["method"]))}
    return table.sort_values("method", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def _joined(title: str, caption: Caption) -> Caption:
    return Caption(f"{title}\n{caption.text}" if caption.text else title, caption.failed)


def _shorten(text: str, most: int = 24) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
