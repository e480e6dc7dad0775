"""Types of parameters that several commands have."""

from typing import Annotated

from cyclopts import Parameter, validators

Words = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]
"""One flag with several words: --labels Edema Mass."""
Wait = Annotated[float | None, Parameter(validator=validators.Number(gte=0))]
"""Minutes to wait for room on the cluster."""
SettingWord = Annotated[str, Parameter(name="setting", show=False, allow_leading_hyphen=True)]
"""A word of the settings as flags, which `config_flags` reads: --optim.lr 1e-4."""
FileFlag = Annotated[str | None, Parameter(name=["--config", "-c"])]
"""A file of settings, or preset:NAME."""
HelpAll = Annotated[bool, Parameter(negative="", show_default=False)]
"""Show every setting instead of running."""
