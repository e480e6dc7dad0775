"""The flags of the config's settings: short flags, the commonest settings, and the help that lists them.

Parsing is in flags.py, suggestions for misspelt names are in near_misses.py. Used by train, tune and config."""

import shlex
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from cxr_ray import config as configs
from cxr_ray.cli import flags, near_misses, next_steps
from cxr_ray.config.image_sizes import sides_of
from cxr_ray.errors import UserError


def _square(words: list[str]) -> list[str]:
    """`224` as `224 224`, `320x256` as `320 256`; other words unchanged."""
    sides = sides_of(words[0]) if len(words) == 1 else None
    return words if sides is None else [str(side) for side in sides]


SHORT = {
    "--store": flags.Short("data.shards"),
    "--model": flags.Short("model.name"),
    "--weights": flags.Short("model.weights"),
    "--image-size": flags.Short("data.image_size", _square),
    "--epochs": flags.Short("train.epochs"),
    "--batch-size": flags.Short("train.batch_size"),
    "--lr": flags.Short("optim.lr"),
    "--workers": flags.Short("train.workers"),
}
"""Short flags of the settings that are typed most often; `--seed` and `--name` are short already."""

SHORT_OF = {short.setting: flag for flag, short in SHORT.items()}
TYPED = (*SHORT_OF, "seed", "name")
"""The settings with a short flag, in the order of the help."""

COMMON = (
    "output",
    "data.labels",
    "data.uncertain",
    "data.split.val",
    "data.split.test",
    "data.limit",
    "data.oversample_min_count",
    "augment.probability",
    "model.dropout",
    "model.freeze_epochs",
    "loss.name",
    "loss.pos_weight_power",
    "optim.name",
    "optim.weight_decay",
    "optim.schedule",
    "optim.warmup_epochs",
    "train.precision",
    "train.monitor",
    "train.patience",
    "train.max_time",
)
"""The twenty settings that `--help` of train lists, in addition to those with a short flag."""

COMMON_TUNE = (
    "tune.trials",
    "tune.metric",
    "tune.constraint",
    "tune.search",
    "tune.scheduler",
    "tune.folds",
    "tune.ensemble",
    "tune.max_concurrent",
    "tune.trial_gpus",
    "tune.max_time",
    "tune.space",
    "data.labels",
    "data.limit",
    "output",
)
"""The settings that `--help` of tune lists, in addition to those with a short flag."""


def parse(words: Sequence[str], *, also: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """Split `words` into those that are not flags, and the nested values of the settings, by their dotted and short flags.

    `also`: the command's own flags. Raises `UserError` that names the closest flag."""

    def hint(flag: str) -> str:
        return near_misses.suggest_flag(flag, SHORT_OF)

    return flags.parse(words, configs.Config, also=also, short=SHORT, hint=hint)


def load(file: str | None, words: Sequence[str], *, also: Iterable[str], usage: str) -> configs.Config:
    """The config of a file, overridden by the flags in `words`. `usage` is added to the error for a word that is not a flag.

    Raises `UserError` that names the closest setting, metric or rule."""
    rest, values = parse(words, also=also)
    if rest:
        raise UserError(f"unexpected {shlex.join(rest)}; {usage}")
    if file is not None:
        configs.check_plugins(file, values)
    config = configs.load(file, values)
    near_misses.check_metrics(config)
    near_misses.check_rule(config.report.thresholds)
    return config


def epilogue(common: Sequence[str], command: str) -> str:
    """Markdown: the short flags and the settings `common`, and where the others are."""
    fields = dict(flags.settings(configs.Config))
    return "\n".join(
        [
            "Settings, as flags that override the file; most also have a short flag:\n",
            *(f"- {_names(name)} {flags.describe(fields[name])}" for name in TYPED),
            *(["\nOther common settings:\n"] if common else []),
            *(f"- `--{name}` {flags.describe(fields[name])}" for name in common),
            f"\n`cxr-ray {command} --help-all` lists all {len(fields)} settings, by section.",
        ]
    )


def _names(setting: str) -> str:
    return f"`{SHORT_OF[setting]}`, `--{setting}`" if setting in SHORT_OF else f"`--{setting}`"


def print_all(first: str = "") -> None:
    """Print every setting by section, as wide as the terminal; the section `first` comes first."""
    width = min(shutil.get_terminal_size((120, 24)).columns, 140)
    sections = list(_sections(configs.Config, ""))
    sections.sort(key=lambda section: section[0] != first)
    for name, model in sections:
        title = " ".join((model.__doc__ or "").split())
        print(f"{name or 'general'}: {title}" if name else "general:")
        for key, field in model.model_fields.items():
            if configs.is_section(field):
                continue
            setting = f"{name}.{key}" if name else key
            print(f"  {_names(setting).replace('`', '')}")
            print(textwrap.fill(flags.describe(field), width, initial_indent="      ", subsequent_indent="      "))
        print()
    print("A list takes several words: --data.labels Edema Mass. One name of a mapping: --data.uncertain.Edema ones.")
    next_steps.show("cxr-ray config > my.yaml writes all of them to a file that cxr-ray train -c my.yaml reads")


def _sections(model: type[BaseModel], name: str) -> Iterable[tuple[str, type[BaseModel]]]:
    """Every section by its dotted name, a section before the sections in it."""
    yield name, model
    for key, field in model.model_fields.items():
        if configs.is_section(field):
            assert isinstance(field.annotation, type)
            yield from _sections(field.annotation, f"{name}.{key}" if name else key)
