"""The sweep as one page."""

from pathlib import Path

from cxr_ray import sweeps


def write(sweep: "sweeps.Sweep") -> "Path":
    """Write `sweep.csv`; its path."""
    from cxr_ray.durable import write_whole

    write_whole(sweep.path / "sweep.csv", sweep.table().to_csv(index=False))
    return sweep.path / "sweep.csv"
