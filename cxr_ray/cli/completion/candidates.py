"""Candidates for the last word of a command line: commands, flags and settings. Values are in values.py.

Made at call time from `Config`, the commands' own parameters and the registries. Loads torch for the names of models only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from cxr_ray import config as configs
from cxr_ray.cli import flags
from cxr_ray.cli.command_list import COMMANDS
from cxr_ray.cli.completion import values
from cxr_ray.cli.completion.values import Candidate
from cxr_ray.cli.config_flags import SHORT

WITH_SETTINGS = ("train", "tune", "config")
"""Commands that take the settings of `Config` as flags."""


@dataclass
class Flag:
    """A flag of a command."""

    annotation: Any
    about: str
    setting: str = ""
    """The dotted setting that it sets; empty for the command's own flags."""
    greedy: bool = False
    """Whether it takes all words up to the next flag."""


@dataclass
class Line:
    """What precedes the last word: positional words, values of each flag, and the flag that the last word may belong to."""

    positional: list[str] = field(default_factory=list)
    given: dict[str, list[str]] = field(default_factory=dict)
    open_flag: str = ""
    needs_value: bool = False

    def value(self, *names: str) -> str:
        """The last value of the first of these flags that is given, or an empty string."""
        return next((self.given[name][-1] for name in names if self.given.get(name)), "")


def complete(words: Sequence[str]) -> list[Candidate]:
    """Candidates for the last of `words`, which follow the program's name. Only those that begin with it."""
    *before, current = words
    if not before:
        found = [*(Candidate(n, a) for n, a in COMMANDS.items()), Candidate("--help"), Candidate("--version")]
        return [each for each in found if each.text.startswith(current) and (current or each.text[0] != "-")]
    command, *rest = before
    if command not in COMMANDS:
        return []
    known = _own_flags(command)
    if command in WITH_SETTINGS:
        known = {**_settings(), **known}
        known |= _with_names(words[1:], known)
    if command == "ingest":
        known |= _source_flags(rest)
    line = _read(rest, known)
    flag, equals, typed = current.partition("=")
    if equals and (name := _find(flag, known)):
        return [Candidate(f"{flag}={c.text}", c.about) for c in _values(command, name, known, line, typed)]
    if current.startswith("-"):
        return _flags(current, known)
    found = _values(command, line.open_flag, known, line, current) if line.open_flag else []
    if not line.needs_value:
        found += values.positional(command, line.positional, current)
        if not current and not found:
            found = _flags("--", known)
    return found


def _own_flags(command: str) -> dict[str, Flag]:
    """The command's own flags, from its cyclopts app."""
    app = import_module(f"cxr_ray.cli.commands.{command}").app
    found = {}
    for argument in app.assemble_argument_collection():
        for name in argument.names if argument.show else ():
            if name.startswith("-"):
                about = " ".join((argument.parameter.help or _about(app, argument)).split())
                found[name] = Flag(argument.hint, about, greedy=bool(argument.parameter.consume_multiple))
    found["--help"] = Flag(bool, "Show the help of this command.")
    return found


def _about(app: Any, argument: Any) -> str:
    """The first line of the parameter's description in the command's docstring."""
    lines = iter((app.default_command.__doc__ or "").splitlines())
    for line in lines:
        if line.strip() == argument.field_info.name:
            return next(lines, "").strip()
    return ""


def _settings() -> dict[str, Flag]:
    """The settings of `Config` by their dotted and short flags."""
    found = {}
    for name, info in flags.settings(configs.Config):
        about = " ".join((info.description or "").split())
        greedy = any((get_origin(m) or m) in (list, tuple) for m in flags.union_members(info.annotation))
        found[f"--{name}"] = Flag(info.annotation, about, name, greedy)
    short = {name: found[f"--{one.setting}"] for name, one in SHORT.items()}
    return short | found


def _source_flags(words: Sequence[str]) -> dict[str, Flag]:
    """The options of the source that is named in the words of `ingest`."""
    from cxr_ray.registry import SOURCES

    name = next((word for word in words if word in SOURCES), None)
    if name is None:
        return {}
    options: type[BaseModel] = SOURCES[name].options
    return {
        f"--{name.replace('_', '-')}": Flag(info.annotation, " ".join((info.description or "").split()))
        for name, info in options.model_fields.items()
    }


def _read(words: Sequence[str], known: Mapping[str, Flag]) -> Line:
    line = Line()
    for word in words:
        if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
            flag, equals, typed = word.partition("=")
            flag = _find(flag, known) or flag
            line.given.setdefault(flag, [])
            one = known.get(flag)
            if equals:
                line.given[flag].append(typed)
            takes = one is not None and not equals and (one.setting or bool not in flags.union_members(one.annotation))
            line.open_flag, line.needs_value = (flag, True) if takes else ("", False)
        elif line.open_flag:
            line.given[line.open_flag].append(word)
            line.needs_value = False
            if not known[line.open_flag].greedy:
                line.open_flag = ""
        else:
            line.positional.append(word)
    return line


def _flags(current: str, known: Mapping[str, Flag]) -> list[Candidate]:
    """Flags that begin with `current`. Settings are offered section by section: `--data.`, then `--data.split.`."""
    found: dict[str, str] = {}
    for name, flag in known.items():
        if not name.startswith(current):
            continue
        end = name.find(".", len(current))
        if flag.setting and end >= 0:
            section = name[: end + 1]
            found[section] = _section_about(section)
        else:
            found[name] = flag.about
    return [Candidate(name, about) for name, about in found.items()]


def _section_about(section: str) -> str:
    model: type[BaseModel] = configs.Config
    for part in section.strip("-.").split("."):
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)
        model = annotation
    return " ".join((model.__doc__ or "").split())


def _values(command: str, flag: str, known: Mapping[str, Flag], line: Line, current: str) -> list[Candidate]:
    one = known[flag]
    store = line.value("--store", "--data.shards")
    if one.setting:
        return values.of_setting(one.setting, one.annotation, current, store=store)
    return values.of_flag(command, flag, one.annotation, current, run=line.positional[0] if line.positional else "")


def _find(flag: str, known: Mapping[str, Flag]) -> str:
    """The known flag that `flag` is, also with - for _; an empty string for an unknown one."""
    by_dash = {name.replace("_", "-"): name for name in known}
    return flag if flag in known else by_dash.get(flag.replace("_", "-"), "")


def _with_names(words: Sequence[str], known: Mapping[str, Flag]) -> dict[str, Flag]:
    """Flags in `words` that set the value of one name of a mapping, such as `--data.uncertain.Edema`."""
    found = {}
    for word in words:
        flag = word.partition("=")[0]
        parts = flag.split(".")
        for end in range(len(parts) - 1, 0, -1):
            one = known.get(_find(".".join(parts[:end]), known))
            inner = (
                next((get_args(m)[1] for m in flags.union_members(one.annotation) if get_origin(m) is dict), None)
                if one
                else None
            )
            if one is not None and inner is not None:
                found[flag] = Flag(inner, one.about, one.setting)
    return found
