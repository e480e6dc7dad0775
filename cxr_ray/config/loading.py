"""Loading of the config: files, presets and flags, merged and validated once. The settings are declared in schema.py."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cxr_ray.config.schema import Config
from cxr_ray.config.synonyms import meant_setting
from cxr_ray.errors import UserError, closest, has_secret, requirement, unknown


def value_at(values: Mapping[str, Any], setting: str) -> Any:
    """The value of the dotted `setting` in a config's `model_dump()`; None if it is not set.

    For one label's setting, such as data.uncertain.Edema, a value for all labels counts as its value."""
    value: Any = values
    parts = setting.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(value, Mapping):
            return value
        rest = ".".join(parts[depth:])  # a key may contain dots itself
        if rest in value:
            return value[rest]
        value = value.get(part)
    return value


def dotted_names(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of the settings in nested `values`, in their order."""
    out: list[str] = []
    for key, value in values.items():
        out += dotted_names(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return out


def is_section(field: FieldInfo) -> bool:
    """Whether the field is a section of settings, not a value."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of `model` by its dotted name, in declaration order."""
    for name, field in model.model_fields.items():
        if is_section(field):
            assert isinstance(field.annotation, type)
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` overridden by `over`. Mappings are merged recursively; all other values are replaced."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader in C, where PyYAML has it: eight times as fast, which counts in sweeps of short trials."""


def preset_path(name: str) -> Path:
    """The file of the preset `name`: in the wheel, or in `jobs/configs` of a checkout. Raises `UserError`."""
    package = Path(__file__).resolve().parents[1]
    folders = [package / "presets", package.parent / "jobs" / "configs"]
    found = {p.stem: p for folder in reversed(folders) if folder.is_dir() for p in sorted(folder.glob("*.yaml"))}
    if name not in found:
        raise unknown("preset", name, found)
    return found[name]


def read_file(spec: str) -> dict[str, Any]:
    """The mapping in a YAML file, or in the preset `preset:NAME`. Raises `UserError`."""
    path = preset_path(spec.removeprefix("preset:")) if spec.startswith("preset:") else Path(spec)
    try:
        body = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except FileNotFoundError:
        raise UserError(f"no config file at {path.resolve()}; give a YAML file or preset:NAME") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path} as YAML: {' '.join(str(error).split())}") from None
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise UserError(f"{path} contains a {type(body).__name__}, not a mapping of settings")
    return body


def load(file: str | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """The config of a YAML file, of `preset:NAME` or of a run's folder (`read_run`), overridden by `flags` and validated once.

    Raises `UserError` that names the setting, and the closest known one if it is misspelt."""
    values = merge(read_base(file) if file else {}, flags or {})
    return validate(values, where=file or "the flags")


def read_run(folder: str) -> dict[str, Any]:
    """The config of the run, trial or sweep in `folder`, as the base of a new run: without its name, and with the output next to it.

    A run inside a sweep (trials/0003, best) is the base of a run next to the sweep. Raises `UserError` if there is no config.yaml."""
    path = Path(folder).resolve()
    if not (path / "config.yaml").is_file():
        raise UserError(
            f"{path} is not a run folder (it has no config.yaml); give the folder of a run or of a sweep's trial"
        )
    values = read_file(str(path / "config.yaml"))
    outermost = next((one for one in reversed(path.parents) if (one / "sweep.json").is_file()), path)
    return {**values, "name": None, "output": str(outermost.parent)}


def read_base(source: str) -> dict[str, Any]:
    """The values of a YAML file, of a preset (`preset:NAME`), or of the run in a folder. Raises `UserError`."""
    return read_run(source) if Path(source).is_dir() else read_file(source)


def check_plugins(file: str, over: Mapping[str, Any]) -> None:
    """Raises `UserError` if `file` is the config of a run or sweep with plugins that the settings `over` do not name: a saved file may
    not choose the code that runs."""
    recorded = read_base(file).get("plugins") or []
    folder = Path(file) if Path(file).is_dir() else Path(file).parent
    of_run = any((folder / name).is_file() for name in ("run.json", "sweep.json"))
    if of_run and set(recorded) - set(over.get("plugins") or []):
        listed = " ".join(map(str, recorded))
        raise UserError(
            f"{file} belongs to a run with plugins, and a saved file may not choose the code that runs: if you trust them, add "
            f"--plugins {listed}, or plugins={recorded!r} in Python"
        )


def load_config(source: str | os.PathLike[str] | None = None, /, **settings: Any) -> Config:
    """The config of a YAML file, of a preset (`preset:demo`) or of a run's folder, or the defaults, with `settings` in place of its own.

    Settings are named as in the file, with dots or in sections: `load_config("preset:demo", **{"optim.lr": 1e-4})` equals
    `load_config("preset:demo", optim={"lr": 1e-4})`. A path may be a `Path`, and `data.shards` also a store. A run's folder
    gives the base of a new run: its settings without its name, such as a sweep's winner to train longer. Raises `UserError`
    that names the setting, and the closest known one if it is misspelt."""
    if source is not None and not isinstance(source, str | os.PathLike):
        raise UserError(f"load_config takes a YAML file or preset:NAME, then settings by keyword; got {source!r}")
    file = None if source is None else os.fspath(source)
    if file is not None:
        check_plugins(file, settings)
    return validate(merge(read_base(file) if file else {}, nest(settings)), where=file or "the settings")


def nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as nested sections: `{"optim.lr": 1}` becomes `{"optim": {"lr": 1}}`. Paths become text.

    The rest of a dotted name below a setting that is a mapping (data.uncertain.Edema) is its key, dots included. Raises
    `UserError` for a setting that is given twice."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        section, *keys = _path(str(name))
        for key in reversed(keys):
            value = {key: value}
        value = _plain(value)
        old = out.get(section)
        if section in out and not (isinstance(old, Mapping) and isinstance(value, Mapping)):
            raise UserError(f"{name} and {section} contradict each other; give one of them")
        out[section] = merge(old or {}, value) if isinstance(value, Mapping) else value
    return out


def _path(name: str) -> list[str]:
    """The keys that the dotted `name` of a setting leads through."""
    model: type[BaseModel] = Config
    parts = name.split(".")
    for depth, part in enumerate(parts):
        field = model.model_fields.get(part)
        if field is None or not is_section(field):
            rest = ".".join(parts[depth + 1 :])
            return [*parts[: depth + 1], *([rest] if rest else [])]
        assert isinstance(field.annotation, type)
        model = field.annotation
    return parts


def _plain(value: Any) -> Any:
    """`value` with paths as text, also inside mappings."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def validate(values: Mapping[str, Any], *, where: str = "the config") -> Config:
    """A `Config` from plain values. Raises `UserError` as `load` does, and for a secret in a URL: a run keeps its config."""
    try:
        config = Config.model_validate(_numbers(values, Config))
    except ValidationError as error:
        raise UserError(f"{where}: {_message(error)}") from None
    for name, text in _texts(config.model_dump(mode="json")):
        if has_secret(text):
            raise UserError(
                f"{where}: {name}: a URL is written to configs and logs and must not contain a secret: {text}; give credentials in the "
                "environment"
            )
    return config


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in plain values, with its dotted name."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping | list):
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(each, f"{name}.{key}" if name else str(key))


def _numbers(values: Any, model: type[BaseModel]) -> Any:
    """`values` with strings such as `1e-4`, which PyYAML does not read as numbers, converted where `model` has a float."""
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
            out[key] = {k: to_number(v) for k, v in value.items()}
        elif isinstance(value, str) and "float" in str(kind):
            out[key] = to_number(value)
    return out


def to_number(value: Any) -> Any:
    """A string such as `1e-4` as a number; any other value unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _message(error: ValidationError) -> str:
    """A validation error in one line: the dotted name of each setting, what is wrong, and the closest known setting."""
    problems: dict[str, list[str]] = {}
    for item in error.errors():
        model: type[BaseModel] = Config
        names: list[str] = []
        for part in item["loc"]:  # the path of the setting; what follows names members of a union
            names.append(str(part))
            field = model.model_fields.get(str(part))
            if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
                break
            model = field.annotation
        setting = ".".join(names)
        if item["type"] == "extra_forbidden":
            prefix = ".".join(names[:-1])
            meant = meant_setting(setting)
            hint = f"; did you mean {meant}?" if meant and meant != setting else closest(names[-1], model.model_fields)
            problems.setdefault(setting, []).append(
                f"is not a setting{hint}"
                + ("" if hint else f"; known{' in ' + prefix if prefix else ''}: {', '.join(model.model_fields)}")
            )
        else:
            problems.setdefault(setting, []).append(f"{requirement(item['msg'])}, got {item['input']!r}")
    return "; ".join(
        f"{setting}{'' if texts[0].startswith('is not') else ':'} {' or '.join(dict.fromkeys(texts))}"
        for setting, texts in problems.items()
    )
