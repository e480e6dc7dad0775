"""The parts of the site that are made from the code when it is built: the API, commands, settings, sources, models, losses, presets.

A page asks for one by a line `<!-- generated: NAME -->`. Nothing of it is written to the repository.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import drawings
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import cxr_ray
from cxr_ray import config as configs
from cxr_ray.cli import app as cli
from cxr_ray.cli import config_flags, flags
from cxr_ray.registry import LOSSES, MODELS, SOURCES, Entry

ROOT = Path(__file__).resolve().parents[1]
ASKED = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)


def fill(text: str) -> str:
    """A page with its generated parts. Raises `KeyError` for a part that does not exist."""
    return ASKED.sub(lambda asked: PARTS[asked[1]](), text)


def api() -> str:
    """Every public name with its signature and docstring, in the groups of `cxr_ray._PUBLIC`."""
    return "\n\n".join(
        f"## {title}\n\n" + "\n\n".join(_documented(name) for name in names) for title, names in api_groups().items()
    )


def api_groups() -> dict[str, list[str]]:
    """The public names by the comments between them in the table `_PUBLIC`."""
    source = inspect.getsource(cxr_ray)
    table = source[source.index("_PUBLIC = {") : source.index("\n}\n")]
    found: dict[str, list[str]] = {}
    for comment, name in re.findall(r'^    (?:# (.+)|"(\w+)": .+)$', table, re.MULTILINE):
        if comment:
            names = found[comment] = []
        else:
            names.append(name)
    return found


def _documented(name: str) -> str:
    """The autodoc directive of one public name. Settings have a page of their own, so their fields are not repeated."""
    value = getattr(cxr_ray, name)
    if not inspect.isclass(value):
        lines = [f".. autofunction:: cxr_ray.{name}"]
    elif issubclass(value, BaseModel):
        own = [key for key, member in vars(value).items() if inspect.isfunction(member) and not key.startswith("_")]
        lines = [f".. autoclass:: cxr_ray.{name}()", f"   :members: {', '.join(own)}"]
    elif issubclass(value, BaseException):
        lines = [f".. autoexception:: cxr_ray.{name}"]
    else:
        lines = [f".. autoclass:: cxr_ray.{name}", "   :members:"]
    return "\n".join(["```{eval-rst}", *lines, "```"])


def commands() -> str:
    """Every command with its usage, arguments and flags, as its own `--help` describes them."""
    return "\n\n".join(_command(name) for name in cli.COMMANDS)


def _command(name: str) -> str:
    app = cli.build(name)[name]
    body = app.generate_docs(output_format="markdown", heading_level=2, recursive=True)
    usage = re.compile(rf"^(```console\n)(?:cxr-ray )?({re.escape(name)}\b.*)$", re.MULTILINE)
    body = usage.sub(r"\1cxr-ray \2", body.replace("```console", "```console", 1))
    return body.strip()


def settings() -> str:
    """Every setting of `Config` by section: its flags, type, default and meaning."""
    return "\n\n".join(_section(name, model) for name, model in _sections(configs.Config, ""))


def _sections(model: type[BaseModel], name: str) -> Iterable[tuple[str, type[BaseModel]]]:
    yield name, model
    for key, field in model.model_fields.items():
        if configs.is_section(field):
            assert isinstance(field.annotation, type)
            yield from _sections(field.annotation, f"{name}.{key}".strip("."))


def _section(name: str, model: type[BaseModel]) -> str:
    title = f"## `{name}`\n\n{_line(model.__doc__)}" if name else "## General"
    own = [
        _setting(f"{name}.{key}".strip("."), field)
        for key, field in model.model_fields.items()
        if not configs.is_section(field)
    ]
    return "\n\n".join([title, *own])


def _setting(name: str, field: FieldInfo) -> str:
    short = config_flags.SHORT_OF.get(name)
    also = f" Short flag: `{short}`." if short else ""
    return _value(name, field, _line(field.description) + also)


def _value(name: str, field: FieldInfo, about: str) -> str:
    default = flags.default_of(field)
    shown = "required" if default is ... else flags.plain(default)
    kind = flags.type_name(field.annotation)
    return f"```{{confval}} {name}\n:type: `` {kind} ``\n:default: `` {shown} ``\n\n{about}\n```"


def sources() -> str:
    """Every source with its description and options."""
    return "\n\n".join(_entry(entry, "source") for entry in SOURCES).replace("### ", "## ")


def losses() -> str:
    """Every loss with its formula and options."""
    return "\n\n".join(_entry(entry, "loss") for entry in LOSSES)


def models() -> str:
    """Every model in one table, and the options of those that have some of their own."""
    rows = ["| model | |", "|---|---|", *(f"| `{entry.name}` | {_line(entry.about)} |" for entry in MODELS)]
    options = [
        _value(f"model.{entry.name}.{name}", field, _line(field.description))
        for entry in MODELS
        for name, field in entry.options.model_fields.items()
    ]
    return "\n".join(rows) + "\n\n### Options of models\n\n" + "\n\n".join(options)


def _entry(entry: Entry[Callable[..., object]], kind: str) -> str:
    about = inspect.cleandoc(inspect.getdoc(entry.make) or entry.about)
    options = [
        _value(f"{kind}.{entry.name}.{name}", field, _line(field.description))
        for name, field in entry.options.model_fields.items()
    ]
    return "\n\n".join([f"### `{entry.name}`", about, *options])


def presets() -> str:
    """Every preset with the comment that opens its file."""
    found = []
    for path in sorted((ROOT / "jobs" / "configs").glob("*.yaml")):
        head = path.read_text(encoding="utf-8").split("\n#\n")[0]
        found.append(f"`preset:{path.stem}`\n: {_line(head.replace('#', ''))}")
    return "\n\n".join(found)


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


PARTS: dict[str, Callable[[], str]] = {
    "api": api,
    "commands": commands,
    "data-way": drawings.data_way,
    "losses": losses,
    "models": models,
    "package-levels": drawings.package_levels,
    "presets": presets,
    "settings": settings,
    "sources": sources,
}
