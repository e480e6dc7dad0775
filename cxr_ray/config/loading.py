"""Config files, presets, flags and merging, all into one validation."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cxr_ray.config.schema import Config
from cxr_ray.errors import UserError, closest, unknown


def value_at(values: Mapping[str, Any], setting: str) -> Any:
    """The value of `knob` in a config's `model_dump()`; None where it is not said. A label's policy is its own or that of all."""
    here: Any = values
    parts = setting.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(here, Mapping):
            return here
        whole = ".".join(parts[depth:])
        if whole in here:
            return here[whole]
        here = here.get(part)
    return here


def is_section(field: FieldInfo) -> bool:
    """Whether the field holds further knobs rather than a value."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every knob of `model` by its dotted name, in the order they are written."""
    for name, field in model.model_fields.items():
        if is_section(field):
            assert isinstance(field.annotation, type)
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on it, section by section; values that are not sections are replaced whole."""
    out = dict(base)
    for key, value in over.items():
        held = out.get(key)
        out[key] = merge(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return out


def preset_path(name: str) -> Path:
    """Where the preset `name` lies: in the wheel, or in `jobs/configs` of a checkout. Raises `UserError`."""

    here = Path(__file__).resolve().parents[1]
    folders = [here / "presets", here.parent / "jobs" / "configs"]
    found = {p.stem: p for folder in reversed(folders) if folder.is_dir() for p in sorted(folder.glob("*.yaml"))}
    if name not in found:
        raise unknown("preset", name, found)
    return found[name]


def read_file(spec: str) -> dict[str, Any]:
    """The mapping in a YAML file, or in a preset named `preset:NAME`. Raises `UserError`."""
    path = preset_path(spec.removeprefix("preset:")) if spec.startswith("preset:") else Path(spec)
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no config file at {path.resolve()}; give a YAML file or preset:NAME") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path} as YAML: {' '.join(str(error).split())}") from None
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise UserError(f"{path} holds a {type(body).__name__}, not a mapping of knobs")
    return body


def load(file: str | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """The config of a YAML file (or `preset:NAME`) with `flags` laid over it, validated once.

    Raises `UserError` that names the knob, and the closest known one where it is misspelt."""
    values = merge(read_file(file) if file else {}, flags or {})
    return validate(values, where=file or "the flags")


def validate(values: Mapping[str, Any], *, where: str = "the config") -> Config:
    """A `Config` of plain values; see `load`."""
    try:
        return Config.model_validate(_numbers(values, Config))
    except ValidationError as error:
        raise UserError(f"{where}: {_message(error)}") from None


def _numbers(values: Any, model: type[BaseModel]) -> Any:
    """PyYAML reads `1e-4` as a string: turn such strings into numbers where a float is asked for."""
    if not isinstance(values, Mapping):
        return values
    out: dict[str, Any] = dict(values)
    for key, value in out.items():
        field = model.model_fields.get(str(key))
        if field is None:
            continue
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            out[key] = {} if value is None else _numbers(value, kind)
        elif key == "options" and isinstance(value, Mapping):
            out[key] = {k: number(v) for k, v in value.items()}
        elif isinstance(value, str) and "float" in str(kind):
            out[key] = number(value)
    return out


def number(value: Any) -> Any:
    """`1e-4` as a number where PyYAML left it a string; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _message(error: ValidationError) -> str:
    """One line of a validation error: the knob by its dotted name, what is wrong, and the closest known knob."""
    lines: dict[str, list[str]] = {}
    for item in error.errors():
        model: type[BaseModel] = Config
        names: list[str] = []
        for part in item["loc"]:  # the knob's own path; what follows names arms of a union
            names.append(str(part))
            field = model.model_fields.get(str(part))
            if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
                break
            model = field.annotation
        setting = ".".join(names)
        if item["type"] == "extra_forbidden":
            prefix = ".".join(names[:-1])
            hint = closest(names[-1], model.model_fields)
            lines.setdefault(setting, []).append(
                f"is not a knob{hint}"
                + ("" if hint else f"; known{' in ' + prefix if prefix else ''}: {', '.join(model.model_fields)}")
            )
        else:
            lines.setdefault(setting, []).append(f"{item['msg'].removeprefix('Value error, ')}, got {item['input']!r}")
    return "; ".join(
        f"{setting}{'' if said[0].startswith('is not') else ':'} {' or '.join(dict.fromkeys(said))}"
        for setting, said in lines.items()
    )
