"""A search space: knobs by dotted name and what they may be, checked whole before the first trial; and what is drawn from it."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_ray import config as cfg
from cxr_ray.errors import UserError, unknown

KINDS = ("uniform", "loguniform", "integer", "choice")

MEANT = {
    "data": "all trials are judged on the same rows by the same truth, so only uncertain, oversample_min_count, image_size and "
    "normalize may differ",
    "report": "it says how a run is shown, not how it is trained",
    "tune": "it is the sweep itself",
    "train": "all trials run and are judged alike",
    "": "it does not change a training",
}
"""Why a knob of a section may not stand in a space."""
OPEN = {
    "data": {"uncertain", "oversample_min_count", "image_size", "normalize"},
    "train": {"epochs", "batch_size", "micro_batch", "precision", "compile", "sync_batch_norm", "patience"},
    "report": set(),
    "tune": set(),
    "": {"seed"},
}
"""Knobs that may stand in a space, of the sections where not all may."""


@dataclass(frozen=True)
class Dimension:
    """One knob and what it may be: `values` are the ends of an interval, or the choices."""

    hyperparameter: str
    kind: str
    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        """A value at random."""
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
    """The dimensions of a sweep, in the order they are written."""

    dimensions: tuple[Dimension, ...]

    def sample(self, number: int, *, seed: int) -> dict[str, Any]:
        """The combination of trial `number`, from (seed, number) alone: more trials later change none of the first."""
        rng = np.random.default_rng([seed, number])
        return {d.hyperparameter: d.draw(rng) for d in self.dimensions}

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the choices, the last knob changing fastest. Raises `UserError` for an interval."""
        for d in self.dimensions:
            if d.kind != "choice":
                raise UserError(
                    f"tune.space.{d.hyperparameter}: a grid takes choices, not {d.kind}; write {{choice: [...]}}, or tune.search: random"
                )
        names = [d.hyperparameter for d in self.dimensions]
        return [dict(zip(names, v, strict=True)) for v in itertools.product(*(d.values for d in self.dimensions))]


def parse(tune: cfg.Tune, base: cfg.Config, labels: Sequence[str]) -> Space:
    """The space that `tune.space` says, every end and choice of it laid on `base` and validated.

    Raises `UserError` that names the knob: unknown (with the closest), not open to a search, or refused by the config."""
    if tune.search == "list":
        if not tune.combinations:
            raise UserError("tune.search: list, but tune.combinations is empty; give a list of {knob: value}")
        for at, combination in enumerate(tune.combinations):
            for hyperparameter in combination:
                check_open(hyperparameter, where=f"tune.combinations[{at}]")
            apply(base, numbers(combination), labels, where=f"tune.combinations[{at}]")
        return Space(())
    if not tune.space:
        raise UserError(
            "tune.space is empty: there is nothing to search; name a knob and what it may be, such as "
            "optim.lr: {loguniform: [1.0e-6, 1.0e-3]}"
        )
    space = Space(tuple(_dimension(hyperparameter, said) for hyperparameter, said in flat(tune.space).items()))
    for d in space.dimensions:
        for value in d.values:
            apply(base, {d.hyperparameter: value}, labels, where=f"tune.space.{d.hyperparameter}")
    return space


def flat(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names, whether the file nests them or not: `{optim: {lr: {...}}}` is `{optim.lr: {...}}`."""
    out: dict[str, Any] = {}
    for key, said in space.items():
        name = f"{prefix}{key}"
        leaf = not isinstance(said, Mapping) or any(k in KINDS for k in said) or not said
        section = name in cfg.Config.model_fields or name in ("data.uncertain", "model.options", "loss.options")
        out |= {name: said} if leaf or not section else flat(said, f"{name}.")
    return out


def _dimension(hyperparameter: str, said: Any) -> Dimension:
    check_open(hyperparameter, where="tune.space")
    where = f"tune.space.{hyperparameter}"
    if not isinstance(said, Mapping) or len(said) != 1:
        raise UserError(
            f"{where}: say one of {{uniform: [a, b]}}, {{loguniform: [a, b]}}, {{integer: [a, b]}}, {{choice: [...]}}"
        )
    kind, given = next(iter(said.items()))
    if kind not in KINDS:
        raise unknown("kind of interval", str(kind), KINDS, where=f" in {where}")
    if not isinstance(given, Sequence) or isinstance(given, str) or not len(given):
        raise UserError(f"{where}.{kind}: give a list, such as [0, 1]")
    values = tuple(numbers(dict(enumerate(given))).values())
    if kind == "choice":
        return Dimension(hyperparameter, kind, tuple(dict.fromkeys(values)) if _hashable(values) else values)
    if len(values) != 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise UserError(f"{where}.{kind}: give two numbers, [lowest, highest]")
    low, high = values
    if not low < high:
        raise UserError(f"{where}.{kind}: {low} is not below {high}; give [lowest, highest]")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"{where}.loguniform: {low} has no logarithm; the lowest must be above 0")
    if kind == "integer" and not all(float(v).is_integer() for v in values):
        raise UserError(f"{where}.integer: give whole numbers")
    return Dimension(hyperparameter, kind, (int(low), int(high)) if kind == "integer" else (float(low), float(high)))


def _hashable(values: Sequence[Any]) -> bool:
    return not any(isinstance(v, list | dict) for v in values)


def check_open(hyperparameter: str, *, where: str) -> None:
    """Raises `UserError` where `knob` is none, or may not differ between the trials of a sweep."""
    known = [name for name, _ in cfg.settings(cfg.Config)]
    name = next(
        (k for k in ("data.uncertain", "model.options", "loss.options") if hyperparameter.startswith(k + ".")),
        hyperparameter,
    )
    if name not in known:
        if hyperparameter in cfg.Config.model_fields:
            raise UserError(
                f"{hyperparameter} in {where} is a section, not a knob; name one of its knobs, such as {hyperparameter}.{_first(hyperparameter)}"
            )
        plain = [k for k in known if k.rpartition(".")[2] == hyperparameter]  # lr: the knob's last word alone
        if plain:
            raise UserError(f"unknown knob {hyperparameter!r} in {where}; did you mean {plain[0]!r}?")
        raise unknown("knob", hyperparameter, known, where=f" in {where}")
    section, _, rest = (
        name.rpartition(".") if name.count(".") <= 1 else (name.split(".")[0], "", name.partition(".")[2])
    )
    if section in OPEN and rest not in OPEN[section]:
        raise UserError(f"{hyperparameter} may not stand in {where}: {MEANT[section]}; give it outside tune")


def _first(section: str) -> str:
    kind = cfg.Config.model_fields[section].annotation
    return next(iter(getattr(kind, "model_fields", {"...": None})))


def numbers(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Strings such as `1e-4`, which PyYAML leaves, as numbers."""
    return {k: cfg.number(v) if isinstance(v, str) and any(c.isdigit() for c in v) else v for k, v in values.items()}


def apply(
    base: cfg.Config, hyperparameters: Mapping[str, Any], labels: Sequence[str], *, where: str = "tune"
) -> cfg.Config:
    """`base` with `knobs` (by dotted name) laid over it, validated. `data.uncertain.LABEL` leaves the other labels their
    policy. Raises `UserError`."""
    values = base.model_dump()
    for hyperparameter, value in hyperparameters.items():
        parts = hyperparameter.split(".")
        if hyperparameter.startswith("data.uncertain."):
            held = values["data"]["uncertain"]
            each = held if isinstance(held, dict) else dict.fromkeys(labels, held)
            label = hyperparameter.removeprefix("data.uncertain.")
            if label not in labels:
                raise unknown("label", label, labels, where=f" in {where}")
            values["data"]["uncertain"] = {**each, label: value}
            continue
        depth = 2 if parts[1:2] == ["options"] else len(parts) - 1
        here = values
        for part in parts[:depth]:
            here = here[part]
        here[".".join(parts[depth:])] = value
    return cfg.validate(values, where=where)
