"""Flags from a pydantic model: parses command-line words into nested values, and writes the help that lists the flags.

cyclopts parses a command's own parameters. The settings of `Config` and the options of a source are parsed here, because a
union such as `float | dict`, `"auto" | bool` or `"none" | tuple` must give the same value as in a YAML file. A word is
converted by the field's type only; the model validates the values once, merged with those of the file.
"""

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cxr_ray.config import is_section, settings
from cxr_ray.errors import UserError, closest

TRUE, FALSE, NULL = ("true", "yes", "on"), ("false", "no", "off"), ("null", "none", "~")


class Short(NamedTuple):
    """A second, shorter flag of a setting."""

    setting: str
    """The dotted setting that it sets."""
    read: Callable[[list[str]], list[str]] = list
    """The words after the short flag, as the dotted flag takes them."""


def parse(
    words: Sequence[str],
    model: type[BaseModel],
    *,
    also: Iterable[str] = (),
    greedy: bool = True,
    kind: str = "flag",
    short: Mapping[str, Short] = {},
    hint: Callable[[str], str] = lambda flag: "",
) -> tuple[list[str], dict[str, Any]]:
    """Split `words` into the words that are not flags, and the nested values of the flags of `model`.

    `greedy`: a flag of a list takes all words up to the next flag; otherwise it takes one word and may be repeated.
    `short`: short flags by name, such as `--lr`. `hint` returns the suggestion for an unknown flag, or an empty string: then the
    closest flag is suggested. `also`: the command's own flags, which are suggested too. Raises `UserError`, also if a setting is
    given different values by two of its flags."""
    rest: list[str] = []
    values: dict[str, Any] = {}
    set_by: dict[tuple[str, ...], tuple[str, bool, Any]] = {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not _is_flag(word):
            rest.append(word)
            continue
        flag, equals, given = word.partition("=")
        alias = short.get(flag.replace("_", "-"))
        known = [*short, *also]
        path, annotation = _find(flag if alias is None else f"--{alias.setting}", model, known, kind, hint)
        if equals:
            taken = [given]
        else:
            taken = []
            most = len(words) if greedy and _origins(annotation) & {list, tuple} else 1
            while position < len(words) and len(taken) < most and not _is_flag(words[position]):
                if bool in _origins(annotation) and not greedy and words[position].lower() not in (*TRUE, *FALSE):
                    break  # a switch, followed by a positional word
                taken.append(words[position])
                position += 1
        value = read(alias.read(taken) if alias else taken, annotation, flag)
        before, was_short, other = set_by.setdefault(tuple(path), (flag, alias is not None, value))
        if was_short == (alias is not None):
            _put(values, path, value, flag, annotation)
        elif value != other:
            raise UserError(
                f"{before} and {flag} are the same setting with different values, {plain(other)} and {plain(value)}; "
                "give one of them"
            )
    return rest, values


def _is_flag(word: str) -> bool:
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _find(
    flag: str, model: type[BaseModel], also: Iterable[str], kind: str, hint: Callable[[str], str]
) -> tuple[list[str], Any]:
    """The path of a setting in the model, and its type."""
    section: type[BaseModel] = model
    path: list[str] = []
    parts = flag.removeprefix("--").split(".") if flag.startswith("--") else [flag]
    for depth, part in enumerate(parts):
        name = part.replace("-", "_")
        field = section.model_fields.get(name)
        if field is None:
            break
        path.append(name)
        if is_section(field):
            assert isinstance(field.annotation, type)
            section = field.annotation
            continue
        tail = ".".join(parts[depth + 1 :])
        if not tail:
            return path, field.annotation
        for member in union_members(field.annotation):
            if get_origin(member) is dict:
                return [*path, tail], get_args(member)[1]
        raise UserError(f"unknown {kind} {flag}; --{'.'.join(path)} is one value and has no names below it")
    if len(path) == len(parts):
        names = ", ".join(f"{flag}.{name}" for name in section.model_fields)
        listed = f"{found} Its settings" if (found := hint(flag)) else "; its settings"
        raise UserError(f"{flag} is a section, not a setting{listed}: {names}")
    raise UserError(_unknown_flag(flag, model, also, kind, hint))


def _unknown_flag(flag: str, model: type[BaseModel], also: Iterable[str], kind: str, hint: Callable[[str], str]) -> str:
    names = [name for name, _ in settings(model)]
    plain = flag.lstrip("-").replace("-", "_")
    matches = [f"'--{name}'" for name in names if name.rpartition(".")[2] == plain]  # only the last part of a setting
    known = [*also, *(f"--{name}" for name in names)]
    found = f"; did you mean {' or '.join(matches[:3])}?" if matches else hint(flag)
    found = found or closest(f"--{plain}", known) or closest(flag, known)
    listed = (
        ", ".join(known) if len(known) < 20 else f"{', '.join(known[:8])}, ... ({len(known)} in all; --help lists them)"
    )
    return f"unknown {kind} {flag}{found or f'; known: {listed}'}"


def _put(values: dict[str, Any], path: list[str], value: Any, flag: str, annotation: Any) -> None:
    section = values
    for name in path[:-1]:
        inner = section.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UserError(
                f"{flag} and --{'.'.join(path[: path.index(name) + 1])} contradict each other; give one of them"
            )
        section = inner
    last = path[-1]
    if last in section:
        if list in _origins(annotation):
            old = section[last] if isinstance(section[last], list) else [section[last]]
            section[last] = [*old, *(value if isinstance(value, list) else [value])]
            return
        raise UserError(f"{flag} is given twice; give it once")
    section[last] = value


def union_members(annotation: Any) -> list[Any]:
    """The member types of a union, with nested unions and `Annotated` resolved."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in union_members(part)]
    if hasattr(annotation, "__metadata__"):
        return union_members(get_args(annotation)[0])
    return [annotation]


def _origins(annotation: Any) -> set[Any]:
    return {get_origin(member) or member for member in union_members(annotation)}


def read(words: Sequence[str], annotation: Any, flag: str) -> Any:
    """The value of `words` for a field of type `annotation`: the same as a YAML file would give.

    A word that fits no member type is returned unchanged: the model's validation explains what is wrong."""
    types_ = _origins(annotation)
    members = union_members(annotation)
    if not words:
        if bool in types_:
            return True
        raise UserError(f"{flag} needs a value")
    if len(words) > 1:
        return [read([word], _element(members), flag) for word in words]
    word = words[0]
    lower = word.lower()
    if any(word == choice for member in members if get_origin(member) is Literal for choice in get_args(member)):
        return word
    if type(None) in types_ and lower in NULL and (str not in types_ or lower != "none"):
        return None
    if word[:1] in ("[", "{") and (types_ & {list, tuple, dict} or Any in types_):
        return _yaml(word, members, flag)
    if Any in types_:
        return _guess(word)
    if bool in types_ and lower in (*TRUE, *FALSE):
        return lower in TRUE
    for number in (int, float):
        if number in types_:
            try:
                return number(word)
            except ValueError:
                pass
    if str not in types_ and list in types_:
        return [read([word], _element(members), flag)]
    return word


def _element(members: list[Any]) -> Any:
    """The element type of the list or tuple among the members."""
    for member in members:
        if get_origin(member) in (list, tuple):
            return get_args(member)[0]
    return str


def _yaml(word: str, members: list[Any], flag: str) -> Any:
    """`[a, b]` or `{a: b}`, its scalars converted by their declared type (plain YAML would turn `No` into false)."""
    try:
        body = yaml.load(word, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{flag}: cannot read {word!r} as YAML: {' '.join(str(error).split())}") from None
    if any("Any" in str(member) for member in members):  # free-form: the space of a sweep, a model's options
        return yaml.safe_load(word)
    if isinstance(body, list):
        return [read([item], _element(members), flag) if isinstance(item, str) else item for item in body]
    if isinstance(body, dict):
        inner = next((get_args(member)[1] for member in members if get_origin(member) is dict), Any)
        return {key: read([item], inner, flag) if isinstance(item, str) else item for key, item in body.items()}
    return body


def _guess(word: str) -> Any:
    """A scalar of unknown type: true, false, null, a number, or the word itself."""
    lower = word.lower()
    if lower in ("true", "false"):
        return lower == "true"
    if lower in ("null", "~"):
        return None
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            pass
    return word


def type_name(annotation: Any) -> str:
    """The type as help shows it: `number | {NAME: number}`, `auto | true | false`."""
    names: list[str] = []
    for member in union_members(annotation):
        origin = get_origin(member)
        if member is type(None):
            names.append("null")
        elif origin is Literal:
            names += [str(choice) for choice in get_args(member)]
        elif origin is tuple:
            names.append("[" + ", ".join(type_name(a) for a in get_args(member) if a is not Ellipsis) + "]")
        elif origin is list:
            names.append(f"list of {type_name(get_args(member)[0])}")
        elif origin is dict:
            names.append(f"{{NAME: {type_name(get_args(member)[1])}}}")
        else:
            names.append(
                {str: "text", int: "whole number", float: "number", bool: "true | false", Any: "anything"}.get(
                    member, getattr(member, "__name__", str(member))
                )
            )
    return " | ".join(dict.fromkeys(names))


def plain(value: Any) -> str:
    """A value as one line of YAML."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def default_of(field: FieldInfo) -> Any:
    """The default of a field, or `...` if it is required."""
    return ... if field.is_required() else field.get_default(call_default_factory=True)


def help_lines(model: type[BaseModel], *, dashes: bool = False) -> list[str]:
    """One Markdown bullet per setting: its flag, type, default and meaning."""
    return [f"- `--{name.replace('_', '-') if dashes else name}` {describe(field)}" for name, field in settings(model)]


def describe(field: FieldInfo) -> str:
    """A setting's type, default and meaning in one line."""
    default = default_of(field)
    shown = "required" if default is ... else f"default {plain(default)}"
    return f"({type_name(field.annotation)}; {shown}) {' '.join((field.description or '').split())}"


def commented_yaml(model: type[BaseModel], values: Mapping[str, Any] | None = None, indent: str = "") -> str:
    """Every setting of `model` as YAML, each with its meaning as a comment; with `values` instead of the defaults, if given."""
    lines: list[str] = []
    for name, field in model.model_fields.items():
        doc = " ".join((field.description or "").split())
        if is_section(field):
            assert isinstance(field.annotation, type)
            about = doc or " ".join((field.annotation.__doc__ or "").split())
            inner = None if values is None else values[name]
            lines += [
                f"{indent}{name}:  # {about}",
                commented_yaml(field.annotation, inner, indent + "  ").rstrip("\n"),
            ]
            continue
        value = default_of(field) if values is None else values[name]
        body = f"{indent}{name}: {plain(value)}"
        lines.append(f"{body:<40}  # {doc}" if doc else body)
    return "\n".join(lines) + "\n"
