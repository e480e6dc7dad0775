"""Shared by the benchmarks that train on real images: arguments, and a training that is reused if it is finished."""

import argparse
from pathlib import Path
from typing import Any

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.on_ray import train as on_ray


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """`ROOT --weights FILE --out FOLDER [--threads N]`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    return parser


def quiet(line: str) -> None:
    """Discard a message."""


def trained(values: dict[str, Any], name: str) -> runs.Run:
    """The finished run of that name; trained if there is none."""
    folder = Path(values["output"]) / name
    if (folder / "run.json").exists() and runs.load(folder).info["status"] == "finished":
        return runs.load(folder)
    return on_ray.train(cfg.validate(cfg.merge(values, {"name": name})), log=quiet)
