"""Flags of a pydantic model: words of a command line to plain values by dotted name, and the help that lists them.

cyclopts parses a verb's own parameters; the knobs of `Config` and the options of a source come through here, because
unions such as `float | dict`, `"auto" | bool` or `"none" | tuple` must arrive exactly as a YAML file would give them.
Values are only read here by the field's type; the model itself validates them, once, merged with the file.
"""

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cxr_ray.config import is_section, settings
from cxr_ray.errors import UserError, closest

TRUE, FALSE, NULL = ("true", "yes", "on"), ("false", "no", "off"), ("null", "none", "~")


def parse(
    words: Sequence[str], model: type[BaseModel], *, also: Iterable[str] = (), greedy: bool = True, kind: str = "flag"
) -> tuple[list[str], dict[str, Any]]:
    """Split `words` into what is no flag, and the nested values of the flags that `model` has.

    `greedy`: a knob that holds a list takes all words up to the next flag (else one word, and a list repeats its flag).
    `also`: flags of the verb itself, offered when a name is close to one. Raises `UserError` that names the closest flag."""
    rest: list[str] = []
    values: dict[str, Any] = {}
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not _is_flag(word):
            rest.append(word)
            continue
        flag, equals, given = word.partition("=")
        path, annotation = _find(flag, model, also, kind)
        if equals:
            taken = [given]
        else:
            taken = []
            most = len(words) if greedy and _arms(annotation) & {list, tuple} else 1
            while at < len(words) and len(taken) < most and not _is_flag(words[at]):
                if bool in _arms(annotation) and not greedy and words[at].lower() not in (*TRUE, *FALSE):
                    break  # a switch before a positional word
                taken.append(words[at])
                at += 1
        _put(values, path, read(taken, annotation, flag), flag, annotation)
    return rest, values


def _is_flag(word: str) -> bool:
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _find(flag: str, model: type[BaseModel], also: Iterable[str], kind: str) -> tuple[list[str], Any]:
    """The path in the model, and the type of what stands there."""
    here: type[BaseModel] = model
    path: list[str] = []
    parts = flag.removeprefix("--").split(".") if flag.startswith("--") else [flag]
    for depth, part in enumerate(parts):
        name = part.replace("-", "_")
        field = here.model_fields.get(name)
        if field is None:
            break
        path.append(name)
        if is_section(field):
            assert isinstance(field.annotation, type)
            here = field.annotation
            continue
        tail = ".".join(parts[depth + 1 :])
        if not tail:
            return path, field.annotation
        for arm in _flat(field.annotation):
            if get_origin(arm) is dict:
                return [*path, tail], get_args(arm)[1]
        raise UserError(f"unknown {kind} {flag}; --{'.'.join(path)} holds one value, nothing below it")
    if len(path) == len(parts):
        names = ", ".join(f"{flag}.{name}" for name in here.model_fields)
        raise UserError(f"{flag} is a section, not a knob; its knobs: {names}")
    raise UserError(_no_such(flag, model, also, kind))


def _no_such(flag: str, model: type[BaseModel], also: Iterable[str], kind: str) -> str:
    names = [name for name, _ in settings(model)]
    plain = flag.lstrip("-").replace("-", "_")
    ends = [name for name in names if name.rpartition(".")[2] == plain]  # --lr: the knob's last word alone
    known = [*(f"--{name}" for name in names), *also]
    hint = f"; did you mean '--{ends[0]}'?" if ends else closest("--" + flag.lstrip("-").replace("-", "_"), known)
    if not hint:
        hint = closest(flag, known)
    listed = (
        ", ".join(known) if len(known) < 20 else f"{', '.join(known[:8])}, ... ({len(known)} in all; --help lists them)"
    )
    return f"unknown {kind} {flag}{hint or f'; known: {listed}'}"


def _put(values: dict[str, Any], path: list[str], value: Any, flag: str, annotation: Any) -> None:
    here = values
    for name in path[:-1]:
        held = here.setdefault(name, {})
        if not isinstance(held, dict):
            raise UserError(
                f"{flag} and --{'.'.join(path[: path.index(name) + 1])} contradict each other; give one of them"
            )
        here = held
    last = path[-1]
    if last in here:
        if list in _arms(annotation):
            old = here[last] if isinstance(here[last], list) else [here[last]]
            here[last] = [*old, *(value if isinstance(value, list) else [value])]
            return
        raise UserError(f"{flag} is given twice; give it once")
    here[last] = value


def _flat(annotation: Any) -> list[Any]:
    """The arms of a union, unions and `Annotated` opened."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [arm for part in get_args(annotation) for arm in _flat(part)]
    if hasattr(annotation, "__metadata__"):
        return _flat(get_args(annotation)[0])
    return [annotation]


def _arms(annotation: Any) -> set[Any]:
    return {get_origin(arm) or arm for arm in _flat(annotation)}


def read(words: Sequence[str], annotation: Any, flag: str) -> Any:
    """The value that `words` stand for in a field of type `annotation`: what a YAML file would give for it.

    A word that fits no arm of the type is handed on as it is: the model says what is wrong with it."""
    arms = _arms(annotation)
    flat = _flat(annotation)
    if not words:
        if bool in arms:
            return True
        raise UserError(f"{flag} needs a value")
    if len(words) > 1:
        return [read([word], _element(flat), flag) for word in words]
    word = words[0]
    folded = word.lower()
    if any(word == choice for arm in flat if get_origin(arm) is Literal for choice in get_args(arm)):
        return word
    if type(None) in arms and folded in NULL and (str not in arms or folded != "none"):
        return None
    if word[:1] in ("[", "{") and (arms & {list, tuple, dict} or Any in arms):
        return _yaml(word, flat, flag)
    if Any in arms:
        return _guess(word)
    if bool in arms and folded in (*TRUE, *FALSE):
        return folded in TRUE
    for kind in (int, float):
        if kind in arms:
            try:
                return kind(word)
            except ValueError:
                pass
    if str not in arms and list in arms:
        return [read([word], _element(flat), flag)]
    return word


def _element(flat: list[Any]) -> Any:
    """What a list or tuple among the arms holds."""
    for arm in flat:
        if get_origin(arm) in (list, tuple):
            return get_args(arm)[0]
    return str


def _yaml(word: str, flat: list[Any], flag: str) -> Any:
    """`[a, b]` or `{a: b}`, its scalars read by the type that stands there (YAML alone would make `No` false)."""
    try:
        body = yaml.load(word, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{flag}: cannot read {word!r} as YAML: {' '.join(str(error).split())}") from None
    if any("Any" in str(arm) for arm in flat):  # free-form: the space of a sweep, a model's options
        return yaml.safe_load(word)
    if isinstance(body, list):
        return [read([item], _element(flat), flag) if isinstance(item, str) else item for item in body]
    if isinstance(body, dict):
        inner = next((get_args(arm)[1] for arm in flat if get_origin(arm) is dict), Any)
        return {key: read([item], inner, flag) if isinstance(item, str) else item for key, item in body.items()}
    return body


def _guess(word: str) -> Any:
    folded = word.lower()
    if folded in TRUE[:1] or folded in FALSE[:1]:
        return folded == "true"
    if folded in ("null", "~"):
        return None
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word


def type_name(annotation: Any) -> str:
    """The type as help shows it: `number | LABEL: number`, `auto | true | false`."""
    said: list[str] = []
    for arm in _flat(annotation):
        origin = get_origin(arm)
        if arm is type(None):
            said.append("null")
        elif origin is Literal:
            said += [str(choice) for choice in get_args(arm)]
        elif origin is tuple:
            said.append("[" + ", ".join(type_name(a) for a in get_args(arm) if a is not Ellipsis) + "]")
        elif origin is list:
            said.append(f"list of {type_name(get_args(arm)[0])}")
        elif origin is dict:
            said.append(f"{{NAME: {type_name(get_args(arm)[1])}}}")
        else:
            said.append(
                {str: "text", int: "whole number", float: "number", bool: "true | false", Any: "anything"}.get(
                    arm, getattr(arm, "__name__", str(arm))
                )
            )
    return " | ".join(dict.fromkeys(said))


def plain(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def default_of(field: FieldInfo) -> Any:
    """The default of a field (`...` where it must be given)."""
    return ... if field.is_required() else field.get_default(call_default_factory=True)


def help_lines(model: type[BaseModel], *, dashes: bool = False) -> list[str]:
    """One Markdown bullet a knob: its flag, type, default and meaning."""
    lines = []
    for name, field in settings(model):
        default = default_of(field)
        flag = name.replace("_", "-") if dashes else name
        shown = "must be given" if default is ... else f"default {plain(default)}"
        lines.append(
            f"- `--{flag}` ({type_name(field.annotation)}; {shown}) {' '.join((field.description or '').split())}"
        )
    return lines


def commented_yaml(model: type[BaseModel], values: Mapping[str, Any] | None = None, indent: str = "") -> str:
    """Every knob of `model` as YAML, each with its meaning behind it; `values` in place of the defaults where given."""
    lines: list[str] = []
    for name, field in model.model_fields.items():
        doc = " ".join((field.description or "").split())
        if is_section(field):
            assert isinstance(field.annotation, type)
            about = doc or " ".join((field.annotation.__doc__ or "").split())
            below = None if values is None else values[name]
            lines += [
                f"{indent}{name}:  # {about}",
                commented_yaml(field.annotation, below, indent + "  ").rstrip("\n"),
            ]
            continue
        value = default_of(field) if values is None else values[name]
        body = f"{indent}{name}: {plain(value)}"
        lines.append(f"{body:<40}  # {doc}" if doc else body)
    return "\n".join(lines) + "\n"
