"""What a finding says about those above it, compared with the definition for one row at a time; and PadChest's graph."""

from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.datasets.hierarchy import add_parents
from cxr_ray.datasets.padchest_findings import KINDS, RELATED

NAMES = "abcdefg"


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """A graph without circles: children have later names."""
    return {
        name: tuple(draw(st.lists(st.sampled_from(NAMES[at + 1 :]), max_size=2, unique=True)))
        for at, name in enumerate(NAMES[:-1])
    }


def slowly(
    name: str, row: Mapping[str, float], kinds: Mapping[str, Sequence[str]], both: Mapping[str, Sequence[str]]
) -> float:
    """The value of one finding in one row, from the definition."""

    def reach(graph: Mapping[str, Sequence[str]]) -> set[float]:
        found: set[float] = set()
        for child in graph.get(name, ()):
            found |= {row[child]} | reach_from(child, graph)
        return found

    def reach_from(start: str, graph: Mapping[str, Sequence[str]]) -> set[float]:
        return {value for child in graph.get(start, ()) for value in {row[child]} | reach_from(child, graph)}

    if row[name] == 1 or 1.0 in reach(kinds):
        return 1.0
    if -1.0 in reach(kinds):
        return -1.0
    return np.nan if row[name] == 0 and 1.0 in reach(both) else row[name]


values = st.sampled_from([1.0, 0.0, 0.0, -1.0, np.nan])


@settings(max_examples=60, deadline=None)
@given(graphs(), graphs(), st.lists(st.lists(values, min_size=7, max_size=7), min_size=1, max_size=6))
def test_parents_match_their_definition(
    kinds: dict[str, tuple[str, ...]], related: dict[str, tuple[str, ...]], rows: list[list[float]]
) -> None:
    labels = {name: np.array([row[at] for row in rows], np.float32) for at, name in enumerate(NAMES)}
    both = {name: (*kinds[name], *related[name]) for name in kinds}
    found = add_parents(labels, kinds, related)
    for name in NAMES:
        expected = [slowly(name, dict(zip(NAMES, row, strict=True)), kinds, both) for row in rows]
        np.testing.assert_array_equal(found[name], np.array(expected, np.float32))
    again = add_parents(found, kinds, related)
    assert all(np.array_equal(found[name], again[name], equal_nan=True) for name in found)


def test_a_finding_without_a_column_gets_one_from_its_kinds() -> None:
    labels = {"rib fracture": np.array([1, 0, np.nan], np.float32), "scoliosis": np.array([0, 1, np.nan], np.float32)}
    found = add_parents(labels, {"fracture": ("rib fracture",)}, {"deformation": ("scoliosis",)})
    assert list(found) == ["rib fracture", "scoliosis", "fracture"]
    np.testing.assert_array_equal(found["fracture"], [1, 0, np.nan])


def test_padchests_graph_has_no_circle_and_keeps_sure_and_possible_edges_apart() -> None:
    both = {name: {*KINDS.get(name, ()), *RELATED.get(name, ())} for name in {*KINDS, *RELATED}}

    def below(name: str, path: tuple[str, ...]) -> set[str]:
        assert name not in path, path
        return {n for child in both.get(name, ()) for n in {child} | below(child, (*path, name))}

    assert all(below(name, ()) for name in both)
    pairs = [(parent, child) for graph in (KINDS, RELATED) for parent, children in graph.items() for child in children]
    assert len(pairs) == len(set(pairs))
    parents = {child: {parent for parent, c in pairs if c == child} for _, child in pairs}
    assert parents["hydropneumothorax"] == {"pneumothorax", "pleural effusion"}
    assert parents["air bronchogram"] == {"consolidation", "alveolar pattern"}
