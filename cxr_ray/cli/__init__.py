"""The command line: `main` runs one command. The commands are in commands/."""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, as `app.main` has it. What that imports can be interrupted too."""
    try:
        from cxr_ray.cli import app
    except KeyboardInterrupt:
        print("cxr-ray: interrupted", file=sys.stderr)
        return 130
    return app.main(argv)
