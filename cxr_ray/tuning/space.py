"""The search space: hyperparameters by dotted name with their possible values, validated before the first trial; sampling and
grids. It trains nothing."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_ray import config as cfg
from cxr_ray.errors import UserError, unknown

KINDS = ("uniform", "loguniform", "integer", "choice")

REASONS = {
    "data": "all trials are evaluated on the same rows and the same truth, so only uncertain, oversample_min_count, image_size and "
    "normalize may differ",
    "report": "it configures the report, not the training",
    "tune": "it configures the sweep itself",
    "train": "all trials are run and evaluated alike",
    "": "it does not change the training",
}
"""Why settings of a section are not searchable."""
SEARCHABLE = {
    "data": {"uncertain", "oversample_min_count", "image_size", "normalize"},
    "train": {"epochs", "batch_size", "micro_batch", "precision", "compile", "sync_batch_norm", "patience"},
    "report": set(),
    "tune": set(),
    "": {"seed"},
}
"""Searchable settings, for sections in which not all are."""


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter of the space; `values` are the bounds of an interval, or the choices."""

    name: str
    """Dotted name of the setting."""
    kind: str
    values: tuple[Any, ...]

    def sample(self, rng: np.random.Generator) -> Any:
        """A random value."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "integer":
            return int(rng.integers(low, high + 1))
        if self.kind == "loguniform":
            return min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high)))))
        return float(rng.uniform(low, high))


@dataclass(frozen=True)
class Space:
    """The dimensions of a sweep, in the order of the configuration."""

    dimensions: tuple[Dimension, ...]

    def sample(self, number: int, *, seed: int) -> dict[str, Any]:
        """The combination of trial `number`. It depends on (seed, number) only, so that adding trials does not change the first ones."""
        rng = np.random.default_rng([seed, number])
        return {d.name: d.sample(rng) for d in self.dimensions}

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the choices; the last hyperparameter changes fastest. Raises `UserError` for an interval."""
        for d in self.dimensions:
            if d.kind != "choice":
                raise UserError(
                    f"tune.space.{d.name}: a grid takes choices, not {d.kind}; write {{choice: [...]}}, or tune.search: random"
                )
        names = [d.name for d in self.dimensions]
        return [dict(zip(names, v, strict=True)) for v in itertools.product(*(d.values for d in self.dimensions))]


def parse(tune: cfg.Tune, base: cfg.Config, labels: Sequence[str]) -> Space:
    """The space of `tune.space`; each of its bounds and choices is applied to `base` and validated.

    Raises `UserError` that names the setting: unknown (with the closest name), not searchable, or rejected by the configuration."""
    if tune.search == "list":
        if not tune.combinations:
            raise UserError("tune.search: list, but tune.combinations is empty; give a list of {setting: value}")
        for i, combination in enumerate(tune.combinations):
            for name in combination:
                check_searchable(name, where=f"tune.combinations[{i}]")
            apply(base, parse_numbers(combination), labels, where=f"tune.combinations[{i}]")
        return Space(())
    if not tune.space:
        raise UserError(
            "tune.space is empty: there is nothing to search; name a setting and its values, such as "
            "optim.lr: {loguniform: [1.0e-6, 1.0e-3]}"
        )
    space = Space(tuple(_dimension(name, spec) for name, spec in flatten(tune.space).items()))
    for d in space.dimensions:
        for value in d.values:
            apply(base, {d.name: value}, labels, where=f"tune.space.{d.name}")
    return space


def flatten(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The space by dotted names, whether the file nests them or not: `{optim: {lr: {...}}}` becomes `{optim.lr: {...}}`."""
    flat: dict[str, Any] = {}
    for key, spec in space.items():
        name = f"{prefix}{key}"
        leaf = not isinstance(spec, Mapping) or any(k in KINDS for k in spec) or not spec
        section = name in cfg.Config.model_fields or name in ("data.uncertain", "model.options", "loss.options")
        flat |= {name: spec} if leaf or not section else flatten(spec, f"{name}.")
    return flat


def _dimension(name: str, spec: Any) -> Dimension:
    check_searchable(name, where="tune.space")
    where = f"tune.space.{name}"
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise UserError(
            f"{where}: write one of {{uniform: [a, b]}}, {{loguniform: [a, b]}}, {{integer: [a, b]}}, {{choice: [...]}}"
        )
    kind, given = next(iter(spec.items()))
    if kind not in KINDS:
        raise unknown("distribution", str(kind), KINDS, where=f" in {where}")
    if not isinstance(given, Sequence) or isinstance(given, str) or not len(given):
        raise UserError(f"{where}.{kind}: give a list, such as [0, 1]")
    values = tuple(parse_numbers(dict(enumerate(given))).values())
    if kind == "choice":
        return Dimension(name, kind, tuple(dict.fromkeys(values)) if _hashable(values) else values)
    if len(values) != 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise UserError(f"{where}.{kind}: give two numbers, [lowest, highest]")
    low, high = values
    if not low < high:
        raise UserError(f"{where}.{kind}: {low} is not below {high}; give [lowest, highest]")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"{where}.loguniform: {low} has no logarithm; the lowest value must be above 0")
    if kind == "integer" and not all(float(v).is_integer() for v in values):
        raise UserError(f"{where}.integer: give integers")
    return Dimension(name, kind, (int(low), int(high)) if kind == "integer" else (float(low), float(high)))


def _hashable(values: Sequence[Any]) -> bool:
    return not any(isinstance(v, list | dict) for v in values)


def check_searchable(name: str, *, where: str) -> None:
    """Raises `UserError` if `name` is not a setting, or one that must not differ between the trials of a sweep."""
    known = [setting for setting, _ in cfg.settings(cfg.Config)]
    setting = next(
        (k for k in ("data.uncertain", "model.options", "loss.options") if name.startswith(k + ".")),
        name,
    )
    if setting not in known:
        if name in cfg.Config.model_fields:
            raise UserError(
                f"{name} in {where} is a section, not a setting; name one of its settings, such as {name}.{_first(name)}"
            )
        same_last_part = [k for k in known if k.rpartition(".")[2] == name]  # `lr` for `optim.lr`
        if same_last_part:
            raise UserError(f"unknown setting {name!r} in {where}; did you mean {same_last_part[0]!r}?")
        raise unknown("setting", name, known, where=f" in {where}")
    section, _, rest = (
        setting.rpartition(".") if setting.count(".") <= 1 else (setting.split(".")[0], "", setting.partition(".")[2])
    )
    if section in SEARCHABLE and rest not in SEARCHABLE[section]:
        raise UserError(f"{name} is not allowed in {where}: {REASONS[section]}; set it outside tune")


def _first(section: str) -> str:
    kind = cfg.Config.model_fields[section].annotation
    return next(iter(getattr(kind, "model_fields", {"...": None})))


def parse_numbers(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """`values` with strings such as `1e-4`, which PyYAML does not parse, as numbers."""
    return {k: cfg.to_number(v) if isinstance(v, str) and any(c.isdigit() for c in v) else v for k, v in values.items()}


def apply(base: cfg.Config, params: Mapping[str, Any], labels: Sequence[str], *, where: str = "tune") -> cfg.Config:
    """`base` with `params` (by dotted name) set, validated. `data.uncertain.LABEL` does not change the policy of other labels.
    Raises `UserError`."""
    values = base.model_dump()
    for name, value in params.items():
        parts = name.split(".")
        if name.startswith("data.uncertain."):
            policy = values["data"]["uncertain"]
            by_label = policy if isinstance(policy, dict) else dict.fromkeys(labels, policy)
            label = name.removeprefix("data.uncertain.")
            if label not in labels:
                raise unknown("label", label, labels, where=f" in {where}")
            values["data"]["uncertain"] = {**by_label, label: value}
            continue
        depth = 2 if parts[1:2] == ["options"] else len(parts) - 1
        section = values
        for part in parts[:depth]:
            section = section[part]
        section[".".join(parts[depth:])] = value
    return cfg.validate(values, where=where)
