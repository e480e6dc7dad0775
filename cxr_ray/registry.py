"""Names of sources, models and losses. What a name stands for lives with its implementation."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cxr_ray.errors import UserError, closest, unknown

T = TypeVar("T", bound=Callable[..., Any])


class Options(BaseModel):
    """Base of what a registered thing alone knows: `options:` of the config is checked against it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing: its name, what makes it, its `Options`, and the first line of its docstring."""

    name: str
    make: T
    options: type[Options]
    about: str

    def parse(self, options: dict[str, Any], *, where: str) -> Any:
        """Check free-form `options` against this entry's own model; raises `UserError` naming the closest option."""
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
            at = ".".join(str(p) for p in first["loc"])
            said = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{where}.{at} of {self.name}: {said}, got {first['input']!r}") from None


class Registry(Generic[T]):
    """Names to entries. The modules that register them are imported on the first look, so that config needs no torch."""

    def __init__(self, kind: str, modules: Sequence[str]) -> None:
        self.kind = kind
        self._modules = list(modules)
        self._loaded = False
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, options: type[Options] = Options) -> Callable[[T], T]:
        """Decorator: `@SOURCES.register("nih")`. A name can be taken once."""

        def add(make: T) -> T:
            held = self._entries.get(name)
            if held is not None and (held.make.__module__, held.make.__qualname__) != (
                make.__module__,
                make.__qualname__,
            ):
                raise UserError(
                    f"{self.kind} {name!r} is registered twice: in {held.make.__module__} and in {make.__module__}"
                )
            about = (make.__doc__ or "").strip().split("\n")[0]
            self._entries[name] = Entry(name, make, options, about)
            return make

        return add

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
    ["cxr_ray.models.lenet", "cxr_ray.models.covid_cnn", "cxr_ray.models.pneumonia_cnn", "cxr_ray.models.torchvision"],
)
LOSSES: Registry[Callable[..., Any]] = Registry("loss", ["cxr_ray.losses.base", "cxr_ray.losses.auc_margin"])


def load_plugins(modules: Iterable[str]) -> None:
    """Import the user's own modules, which register more sources, models or losses.

    Raises `UserError` where a module cannot be found."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f"plugins: cannot import {module!r} ({error}); is its folder on PYTHONPATH?") from None
