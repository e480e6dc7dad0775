"""The command line."""

from cxr_ray.cli.app import main, mistake

__all__ = ["main", "mistake"]
