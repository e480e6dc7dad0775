"""Registries of sources, models, losses and metrics by name, and the loading of plugins. What a name does is in its own module."""

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cxr_ray.errors import UserError, closest, requirement, unknown

T = TypeVar("T", bound=Callable[..., Any])


class Options(BaseModel):
    """Base class for the options of one source, model or loss. `options:` in the config is validated against it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered object: its name, the callable that makes it, its `Options`, and the first line of its docstring."""

    name: str
    make: T
    options: type[Options]
    about: str

    def parse(self, options: dict[str, Any], *, where: str) -> Any:
        """Validate free-form `options` against `self.options`. Raises `UserError` that names the closest option."""
        for key in options:
            if key not in self.options.model_fields:
                known = sorted(self.options.model_fields)
                hint = closest(key, known)
                listed = f"known: {', '.join(known)}" if known else f"{self.name} has no options"
                raise UserError(f"unknown option {key!r} at {where} of {self.name}{hint or ';'} {listed}")
        try:
            return self.options(**options)
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join([where, *(str(p) for p in first["loc"])])  # no loc: several options together
            raise UserError(f"{path} of {self.name}: {requirement(first['msg'])}, got {first['input']!r}") from None


class Registry(Generic[T]):
    """Entries by name. The modules that register them are imported at the first lookup, so the config needs no torch."""

    def __init__(self, kind: str, modules: Sequence[str]) -> None:
        self.kind = kind
        self._modules = list(modules)
        self._loaded = False
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, options: type[Options] = Options) -> Callable[[T], T]:
        """Decorator: `@SOURCES.register("nih")`. Raises `UserError` if another object already has this name."""

        def add(make: T) -> T:
            old = self._entries.get(name)
            if old is not None and (old.make.__module__, old.make.__qualname__) != (make.__module__, make.__qualname__):
                raise UserError(
                    f"{self.kind} {name!r} is registered twice: in {old.make.__module__} and in {make.__module__}"
                )
            about = (make.__doc__ or "").strip().split("\n")[0]
            self._entries[name] = Entry(name, make, options, about)
            return make

        return add

    def unregister(self, name: str) -> None:
        """Remove a name, for example in a notebook that defines it again. Raises `UserError` for an unknown one."""
        del self._entries[self[name].name]

    def __getitem__(self, name: str) -> Entry[T]:
        self._load()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry[T]]:
        self._load()
        return iter(sorted(self._entries.values(), key=lambda e: e.name))

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._entries

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            for module in self._modules:
                importlib.import_module(module)


SOURCES: Registry[Callable[..., Any]] = Registry(
    "source",
    [
        "cxr_ray.datasets.image_folder",
        "cxr_ray.datasets.covid_radiography",
        "cxr_ray.datasets.chexpert",
        "cxr_ray.datasets.phantom.reader",
        "cxr_ray.datasets.nih",
        "cxr_ray.datasets.covid_chestxray",
        "cxr_ray.datasets.mimic_cxr",
        "cxr_ray.datasets.vindr",
        "cxr_ray.datasets.padchest",
        "cxr_ray.datasets.table",
        "cxr_ray.datasets.dicom_folder",
    ],
)
MODELS: Registry[Callable[..., Any]] = Registry(
    "model",
    [
        "cxr_ray.models.lenet",
        "cxr_ray.models.covid_cnn",
        "cxr_ray.models.pneumonia_cnn",
        "cxr_ray.models.linear",
        "cxr_ray.models.torchvision",
    ],
)
LOSSES: Registry[Callable[..., Any]] = Registry("loss", ["cxr_ray.losses.base", "cxr_ray.losses.auc_margin"])
METRICS: Registry[Callable[..., float]] = Registry("metric", [])
"""Metrics of one label that plugins add to those of `metrics/names.py`: `metric(true_N, prob_N, positive_N) -> float`, from the truth
(bool), the probabilities and the decisions (bool) of the rows whose label is known. NaN: undefined."""

# Modules and names of 0.1.0 that a plugin may import -> where they are now, both below `cxr_ray.`.
MOVED = {
    "augment": "training.augment",
    "batches": "data.loader",
    "burnt": "imaging.burned_in",
    "checkpoints": "training.checkpoint",
    "compare": "evaluation.compare",
    "config.LESS_IS_BETTER": "config.LOWER_IS_BETTER",
    "config.knobs": "config.settings",
    "config.number": "config.to_number",
    "context": "runtime.context",
    "copies": "data.store_cache",
    "datasets.cells.either": "datasets.tables.first_column",
    "datasets.cells.host": "datasets.cells.url_host",
    "datasets.cells.marks": "datasets.cells.parse_labels",
    "datasets.cells.matched": "datasets.cells.extract_groups",
    "datasets.cells.named": "datasets.cells.parse_findings",
    "datasets.cells.numbers": "datasets.cells.parse_numbers",
    "datasets.cells.parts": "datasets.cells.parse_parts",
    "datasets.cells.read_text": "datasets.tables.read_text_table",
    "datasets.cells.rows_of": "datasets.tables.find_rows",
    "datasets.cells.text": "datasets.cells.clean_text",
    "datasets.folders.below": "datasets.folders.join_folder",
    "datasets.folders.by_name": "datasets.folders.paths_by_name",
    "datasets.folders.file_like": "datasets.folders.find_file",
    "datasets.folders.given_file": "datasets.folders.resolve_file",
    "datasets.folders.images": "datasets.folders.find_images",
    "datasets.folders.picture_size": "datasets.folders.image_size",
    "datasets.folders.placed": "datasets.folders.locate",
    "datasets.hashed": "datasets.pseudonyms",  # of an import whose `sources` was changed to `datasets`
    "datasets.label_columns.one_kind": "datasets.label_columns.require_label_option",
    "datasets.label_columns.only_table": "datasets.tables.find_table",
    "datasets.labelled": "datasets.label_columns",
    "datasets.need_columns": "datasets.require_columns",
    "datasets.pseudonyms.hashed": "datasets.pseudonyms.pseudonym",
    "datasets.pseudonyms.hide": "datasets.pseudonyms.pseudonymise",
    "datasets.pseudonyms.key": "datasets.pseudonyms.load_key",
    "describe": "data.summary",
    "dicom": "imaging.dicom",
    "distributed": "runtime.distributed",
    "dry_run": "datasets.preview",
    "durable": "storage.atomic",
    "engine": "training.trainer",
    "ensembles": "runs.ensemble",
    "evaluate": "workflows.evaluate",
    "external": "workflows.external",
    "history": "training.history",
    "images": "imaging.decode",
    "judging": "training.epoch_metrics",
    "kept": "training.build",
    "labels.nearest": "labels.hard_targets",
    "labels.spread": "labels.expand_by_label",
    "leaks": "data.leakage",
    "learner": "training.learner",
    "lease": "storage.lease",
    "losses.AsymmetricOptions": "losses.base.AsymmetricOptions",
    "losses.FocalOptions": "losses.base.FocalOptions",
    "losses.Truth": "losses.base.Truth",
    "losses.at_least_fp32": "losses.base.at_least_fp32",
    "losses.known": "losses.base.known",
    "memory": "runtime.memory",
    "metrics.FIRST": "metrics.TABLE_METRICS",
    "metrics.WHOLE_METRICS": "metrics.OVERALL_METRICS",
    "metrics.WORTH": "metrics.MAIN_METRICS",
    "metrics.decide": "metrics.table.decide",
    "metrics.groups": "metrics.subgroups",
    "metrics.judge": "metrics.compute_metrics",
    "metrics.label_values": "metrics.per_label.label_values",
    "metrics.name": "config.metric_names.join_name",
    "metrics.operating": "metrics.operating_points",
    "metrics.table_values": "metrics.overall.overall_values",
    "metrics.values": "metrics.names",
    "metrics.whole_table": "metrics.overall",
    "mixup": "data.mixup",
    "models.Family": "models.family.Family",
    "models.Skeleton": "models.skeleton.Skeleton",
    "models.append_head": "models.heads.append_head",
    "models.auxiliary_names": "models.classifier.auxiliary_names",
    "models.dropout.before_head": "models.dropout.add_before_head",
    "models.dropout.of_maps": "models.dropout.add_to_maps",
    "models.ends": "models.heads",
    "models.every_head": "models.head_logits",
    "models.from_description": "models.rebuild",
    "models.head_name": "models.heads.head_name",
    "models.listing": "models.summary",
    "models.norms.fewest_rows": "models.norms.smallest_batch",
    "models.norms.over_ranks": "models.norms.synchronize",
    "models.norms.take_one": "models.norms.allow_single_values",
    "models.saved": "models.serialization",
    "models.zoo": "models.torchvision",
    "on_ray.beside": "runtime.threads",
    "on_ray.proposals": "tuning.search",
    "on_ray.sigterm": "runtime.signals",
    "optim": "training.optim",
    "pairwise": "losses.auc_margin",
    "phantom": "datasets.phantom.generate",
    "places": "storage.remote",
    "plan": "data.plan",
    "precision": "runtime.precision",
    "predictor": "inference.predictor",
    "report.again": "evaluation.rescore",
    "report.aspects": "evaluation.analysis",
    "report.data_page": "report.store_page",
    "report.data_plots": "plotting.store_plots",
    "report.html": "report.run_page",
    "report.importance": "tuning.importance",
    "report.tables": "evaluation.results",
    "rivals": "evaluation.baselines",
    "shards": "data.store",
    "sources": "datasets",
    "space": "tuning.space",
    "splits": "data.split",
    "sweeps": "tuning.sweep",
    "trackers": "training.trackers",
    "verbs": "cli.commands",
    "watch": "runtime.polling",
    "winner": "workflows.select",
}


def load_plugins(modules: Iterable[str]) -> None:
    """Import the user's own modules, which register more sources, models, losses or metrics.

    Raises `UserError` if a module cannot be found, uses a name that has moved since 0.1.0, or fails: its exception is the cause."""
    for module in modules:
        try:
            importlib.import_module(module)
        except UserError:
            raise
        except Exception as error:
            old = next((name for name in _wanted(error) if name in MOVED), None)
            if old is not None:
                raise UserError(
                    f"plugins: {module!r} uses cxr_ray.{old}, which is now cxr_ray.{MOVED[old]}; change that import"
                ) from None
            if isinstance(error, ModuleNotFoundError):
                raise UserError(f"plugins: cannot import {module!r} ({error}); is its folder on PYTHONPATH?") from None
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = (
                "" if isinstance(error, SyntaxError) else f" at line {last.lineno} of {last.filename}"
            )  # its text has the place
            raise UserError(
                f"plugins: {module!r} fails when it is imported{place}: {type(error).__name__}: {error}"
            ) from error


def load_named_plugins(named: Iterable[str], recorded: Iterable[str], *, owner: str) -> None:
    """Import the plugins `named` for `owner`, a run or sweep that was made with the plugins `recorded`.

    A file never decides which code runs: raises `UserError` if a recorded plugin is neither named nor imported already."""
    chosen = list(named)
    load_plugins(chosen)
    missing = [name for name in dict.fromkeys(recorded) if name not in chosen and name not in sys.modules]
    if missing:
        raise UserError(
            f"{owner} was made with the plugins {', '.join(missing)}, and a saved file may not choose the code that runs: if you trust "
            f"{'them' if len(missing) > 1 else 'it'}, add --plugins {' '.join(missing)}, or plugins={missing!r} in Python"
        )


def _wanted(error: Exception) -> list[str]:
    """What a failed import or access asked for, below `cxr_ray.`: the name, and the module that was to have it."""
    if isinstance(error, AttributeError):
        missing = re.match(r"module '([\w.]+)' has no attribute '(\w+)'", str(error))
        found = [f"{missing[1]}.{missing[2]}", missing[1]] if missing else []
    elif not isinstance(error, ImportError):
        found = []
    else:
        package = (error.name or "") + "."
        # `ImportError.name_from` needs Python 3.12.
        name = re.match(r"cannot import name '(\w+)'", str(error))
        found = [package + name[1], package.rstrip(".")] if name else [package.rstrip(".")]
    return [one.removeprefix("cxr_ray.") for one in found if one.startswith("cxr_ray.")]
