"""The command line: `main` runs one command. The commands are in commands/."""

from cxr_ray.cli.app import main

__all__ = ["main"]
