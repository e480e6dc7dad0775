"""Findings that are kinds of other findings: what a named finding says about those above it. The graphs are data of their sources."""
# N rows

from collections.abc import Mapping, Sequence

import numpy as np

from cxr_ray.datasets.cells import Floats
from cxr_ray.datasets.padchest_findings import KINDS, RELATED
from cxr_ray.labels import NEGATIVE, POSITIVE, UNCERTAIN

Graph = Mapping[str, Sequence[str]]
"""Direct children by finding. No finding is below itself."""
GRAPHS: dict[str, tuple[Graph, Graph]] = {"padchest": (KINDS, RELATED)}
"""The kinds and the related findings of a source's labels."""


def add_parents(labels: Mapping[str, Floats], kinds: Graph, related: Graph | None = None) -> dict[str, Floats]:
    """`labels` (1, 0, -1 or NaN for each row [N]), where a finding counts for those above it.

    A finding that is not positive becomes positive if one of its `kinds`, at any depth, is positive, and uncertain if one is
    uncertain. It becomes unknown (NaN) if it is negative and only a finding that is `related`, or a kind of one, is positive. A
    finding that has no column gets one, at the end, if one of them has a column and a positive: negative where all others
    of the row are known. Applying it twice changes nothing."""
    related = related or {}
    both = {name: (*kinds.get(name, ()), *related.get(name, ())) for name in {**kinds, **related}}
    known = dict(labels)
    for name in kinds:
        below = [known_values for kind in _below(name, kinds) if (known_values := labels.get(kind)) is not None]
        if name not in labels and any((values == POSITIVE).any() for values in below):
            known[name] = _negative_where_known(list(labels.values()))
    return {name: _with_children(name, values, labels, kinds, both) for name, values in known.items()}


def _with_children(name: str, values_N: Floats, labels: Mapping[str, Floats], kinds: Graph, both: Graph) -> Floats:
    """The values of one finding, given those below it."""
    sure = [labels[kind] for kind in _below(name, kinds) if kind in labels]
    possible = [labels[kind] for kind in _below(name, both) if kind in labels]
    if not possible:
        return values_N
    out_N = values_N.copy()
    out_N[(values_N == NEGATIVE) & _any_is(POSITIVE, possible)] = np.nan
    if sure:
        out_N[(values_N != POSITIVE) & _any_is(UNCERTAIN, sure)] = UNCERTAIN
        out_N[_any_is(POSITIVE, sure)] = POSITIVE
    return out_N


def _below(name: str, graph: Graph) -> list[str]:
    """Findings at any depth below `name`, each once."""
    found: dict[str, None] = {}
    waiting = list(graph.get(name, ()))
    while waiting:
        child = waiting.pop()
        if child not in found:
            found[child] = None
            waiting += graph.get(child, ())
    return list(found)


def _any_is(value: float, columns: Sequence[Floats]) -> np.ndarray:
    return np.logical_or.reduce([column_N == value for column_N in columns])


def _negative_where_known(columns: Sequence[Floats]) -> Floats:
    known_N = ~np.logical_or.reduce([np.isnan(column_N) for column_N in columns])
    return np.where(known_N, np.float32(NEGATIVE), np.float32(np.nan))
