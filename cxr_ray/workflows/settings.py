"""The config that a function of the Python API is given: a Config, or a mapping of settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_ray import config as configs
from cxr_ray.errors import UserError


def resolve(config: configs.Config | Mapping[str, Any], plugins: Sequence[str], *, function: str) -> configs.Config:
    """The config with `plugins` added to its own. Raises `UserError`, which names `function`, if it is neither a config nor a mapping."""
    if isinstance(config, Mapping):
        config = configs.load_config(**{str(name): value for name, value in config.items()})
    if not isinstance(config, configs.Config):
        raise UserError(
            f"{function} takes a config or a mapping of settings, not {type(config).__name__}; load_config('preset:demo') reads a "
            "preset or a file"
        )
    added = [name for name in plugins if name not in config.plugins]
    return config.model_copy(update={"plugins": [*config.plugins, *added]}) if added else config
