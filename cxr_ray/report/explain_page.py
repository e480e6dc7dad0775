"""The page of an explanation: which maps, tables and sentences it shows. The layout is explain.html, the switching explain.js."""
# N maps: an image and an explained output each. H x W pixels

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from PIL import Image

from cxr_ray.explanation.audit import FACTOR, MARGIN, Audit
from cxr_ray.explanation.results import SHOWN, Explanation
from cxr_ray.plotting.explanation_plots import OPACITY, SIGNED, UNSIGNED, Scale
from cxr_ray.plotting.plots import Figure
from cxr_ray.report.render import jinja
from cxr_ray.storage.atomic import write_atomic

LISTED = 200
"""Rows of the table of maps; certificates.csv and maps.npz have all."""


Scores = tuple[str, pd.DataFrame, Sequence[str]]


def write(explanation: Explanation, path: Path, *, scores: Scores | None = None) -> None:
    """Write the page: one file that loads nothing and names no patient. `scores` against annotations: a sentence whether to trust the
    maps, a table of methods x scores, and notes."""
    shown = explanation.shown()
    methods = list(explanation.maps)
    page = (
        jinja()
        .get_template("explain.html")
        .render(
            explanation=explanation,
            methods=methods,
            labels=list(dict.fromkeys(explanation.labels[shown])),
            count=len(explanation),
            images=len(dict.fromkeys(explanation.rows.tolist())),
            shown=shown.stop,
            most=SHOWN,
            data=_data(explanation),
            opacity=OPACITY,
            table=_table(explanation),
            columns=[m for m in methods if explanation.scales[m].signed],
            listed=LISTED,
            certificates=_certificates(explanation),
            failed=len(explanation.failed),
            scores=None if scores is None else _scores(*scores),
        )
    )
    write_atomic(path, page)


def _scores(verdict: str, wide: pd.DataFrame, notes: Sequence[str]) -> dict[str, Any]:
    rows = [
        [str(method), *("" if cell != cell else cell for cell in of)]
        for method, of in zip(wide.index, wide.to_numpy().tolist(), strict=True)
    ]
    return {"verdict": verdict, "columns": ["Method", *map(str, wide.columns)], "rows": rows, "notes": notes}


def write_audit(found: Audit, figures: Mapping[str, Figure], path: Path) -> None:
    """Write the page of an audit: one file that loads nothing, and shows mean maps but no image of a patient."""
    table = found.table
    regions = table[~table["place"].str.startswith("line ") | (table["stands_out"] != "")]
    page = (
        jinja()
        .get_template("audit.html")
        .render(audit=found, figures=figures, rows=regions.to_dict("records"), margin=MARGIN, factor=FACTOR)
    )
    write_atomic(path, page)


def _data(explanation: Explanation) -> dict[str, Any]:
    """What explain.js draws: each picture once, and each map in 8 bits on the scale of its method."""
    at = explanation.shown()
    pictures = {int(explanation.rows[n]): _png(explanation.images[n]) for n in range(at.stop)}
    items = [
        {
            "row": int(explanation.rows[n]),
            "label": explanation.labels[n],
            "p": round(float(explanation.probabilities[n]), 4),
            "logit": round(float(explanation.logits[n]), 4),
            "maps": {
                method: {
                    "png": _png(_bytes(maps[n], explanation.scales[method])),
                    "sum": float(f"{maps[n].sum(dtype=np.float64):.4g}"),
                    "failed": explanation.is_failed(method, n),
                }
                for method, maps in explanation.maps.items()
            },
        }
        for n in range(at.stop)
    ]
    height, width = explanation.images.shape[1:]
    return {
        "size": [width, height],
        "pictures": pictures,
        "items": items,
        "scales": {m: {"limit": float(f"{s.limit:.3g}"), "signed": s.signed} for m, s in explanation.scales.items()},
        "colours": {name: _colours(name) for name in (UNSIGNED, SIGNED)},
        "names": {"unsigned": UNSIGNED, "signed": SIGNED},
    }


def _bytes(map_HW: npt.NDArray[Any], scale: Scale) -> npt.NDArray[np.uint8]:
    """A map in 8 bits: 0 to 255 is 0 to the scale's limit, or -limit to limit if it is signed (0 is 127.5)."""
    share = np.clip(map_HW / scale.limit, -1.0, 1.0)
    return np.round(127.5 * (share + 1) if scale.signed else 255 * np.clip(share, 0, 1)).astype(np.uint8)


def _png(pixels_HW: npt.NDArray[np.uint8]) -> str:
    body = io.BytesIO()
    Image.fromarray(pixels_HW).save(body, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(body.getvalue()).decode()


def _colours(name: str) -> list[int]:
    """256 colours, three bytes each."""
    return (colormaps[name](np.arange(256), bytes=True)[:, :3]).reshape(-1).tolist()


def _table(explanation: Explanation) -> list[dict[str, Any]]:
    """A row per map: what is explained, and the total relevance by method."""
    table = explanation.head(LISTED)
    return [
        {**{str(k): v for k, v in row.items()}, "failed": [m for m in explanation.maps if explanation.is_failed(m, n)]}
        for n, row in enumerate(table.to_dict("records"))
    ]


def _certificates(explanation: Explanation) -> list[dict[str, Any]]:
    """A row per method with certificates: how many hold, the mean of the terms, and the identity."""
    rows = explanation.division.reset_index().to_dict("records")
    identities = explanation.identities
    return [
        {**{str(k): v for k, v in row.items()}, "identity": identities.get(str(row["method"]).partition("/")[0], "")}
        for row in rows
    ]
