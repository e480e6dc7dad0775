"""Types of parameters that several commands have."""

from typing import Annotated

from cyclopts import Parameter

Words = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]
"""One flag with several words: --labels Edema Mass."""
