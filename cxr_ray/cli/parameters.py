"""Types of parameters that several commands have."""

from typing import Annotated

from cyclopts import Parameter, validators

Words = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]
"""One flag with several words: --labels Edema Mass."""
Wait = Annotated[float | None, Parameter(validator=validators.Number(gte=0))]
"""Minutes to wait for room on the cluster."""
