"""Comparisons of files of an earlier version with those of today: what was there is there, with equal numbers."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open

TEXT = (".json", ".yaml", ".csv", ".txt")


NAMES = ("metric", "label", "part", "task", "category", "feature", "method", "trial")
"""Keys whose strings identify things; other strings are prose, whose wording may change."""


CLOSE = 1e-6
"""Largest relative or absolute difference of two numbers that are considered equal."""


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def assert_same(old: Any, new: Any, where: str = "") -> None:
    """Everything in `old` is in `new`, with equal numbers; `new` may have further keys, and other prose."""
    if isinstance(old, dict):
        corrected: set[str] = set()
        if len(set(old.get("between", ()))) == 1:  # an interval of no width is left out
            corrected = {"between"}
        assert isinstance(new, dict) and set(old) - corrected <= set(new), f"{where}: lacks {set(old) - set(new)}"
        if old.get("low") is not None and old["low"] == old.get("high"):
            # Of a rate that is 0 or 1 on every resample. Evaluations always stated Wilson's interval there, comparisons none.
            assert new["low"] <= old["low"] <= new["high"], where
            corrected |= {"low", "high"}
        for key, value in old.items():
            if key in corrected:
                continue
            if not isinstance(value, str) or key in NAMES:
                assert_same(value, new[key], f"{where}/{key}")
    elif isinstance(old, list):
        assert isinstance(new, list) and len(old) == len(new), f"{where}: {len(old)} entries, now {new!r:.100}"
        for at, (one, other) in enumerate(zip(old, new, strict=True)):
            assert_same(one, other, f"{where}[{at}]")
    elif isinstance(old, float) and isinstance(new, int | float):
        assert math.isclose(old, new, rel_tol=CLOSE, abs_tol=CLOSE), f"{where}: was {old}, is {new}"
    else:
        assert old == new, f"{where}: was {old!r}, is {new!r}"


def values(file: Path) -> dict[str, list[float]]:
    """METRIC/LABEL of an evaluation: the value and, if there is one, its interval."""
    rows = read(file)["values"]
    return {f"{v['metric']}/{v['label']}": [v[k] for k in ("value", "low", "high") if k in v] for v in rows}


def assert_same_tables(old: Path, new: Path) -> None:
    """Two Parquet or CSV tables: the same rows, and every column of `old`."""
    load: Callable[[Path], pd.DataFrame] = pd.read_parquet if old.suffix == ".parquet" else pd.read_csv
    before, now = load(old), load(new)
    pd.testing.assert_frame_equal(before, now[list(before.columns)], check_dtype=False, rtol=CLOSE, atol=CLOSE)


def assert_same_weights(old: Path, new: Path) -> None:
    """Two safetensors files: the same names, the same header keys, the same numbers."""
    with safe_open(old, framework="pt") as a, safe_open(new, framework="pt") as b:
        assert set(a.keys()) == set(b.keys()) and a.metadata()["format"] == b.metadata()["format"]
        assert_same(json.loads(a.metadata()["cxr_ray"]), json.loads(b.metadata()["cxr_ray"]), new.name)
        for name in a.keys():  # noqa: SIM118 - not a mapping
            torch.testing.assert_close(b.get_tensor(name), a.get_tensor(name), rtol=CLOSE, atol=CLOSE)
