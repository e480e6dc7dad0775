"""Checks on every node that may take part, in seconds, before a run or a sweep has a folder: what is missing on one node is said with its name."""

import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import textwrap
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import ray

import cxr_ray
from cxr_ray.errors import UserError, listed
from cxr_ray.on_ray.resources import Resources, workers_on_node
from cxr_ray.storage.atomic import as_user_error, make_folder
from cxr_ray.storage.remote import RemotePath, to_path

PACKAGES = ("torch", "ray", "numpy", "pyarrow")
"""Those whose versions must be equal: weights, batches and messages go from node to node."""
TIMEOUT_S = 60.0
"""For a node's answer; the first task of a job on a node may unpack the working directory."""
CLOCK_S = 300.0
"""Clocks that differ by more confuse logs and leases of a shared file system."""
LEAST_FREE = 1 << 30
"""Bytes that the output's disk should have left: a checkpoint of a large model, and its figures."""


@dataclass(frozen=True)
class Needs:
    """What a command uses on every node."""

    store: str
    output: str
    """Folder that will hold the run or the sweep; made if it is missing."""
    plugins: Sequence[str] = ()
    cache: str = "none"
    """Where a node keeps its copy of a remote store, as in `data.cache`."""


def check_cluster(needs: Needs, bundle: Resources) -> list[str]:
    """`check` of the living nodes of the connected cluster that can run a worker of `bundle`."""
    return check(needs, [n for n in ray.nodes() if n["Alive"] and workers_on_node(bundle, n["Resources"]) > 0])


def check(needs: Needs, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ask each of `nodes` (entries of `ray.nodes()`). Returns warnings; raises `UserError` that names the node and the fix.

    A file is written to the output here and read on each node, and each node's own file is read here: a folder of the same name on
    another disk is found. Nodes that start later are not asked."""
    output, mark = Path(needs.output).absolute(), uuid.uuid4().hex
    needs = replace(needs, output=str(output))  # the folder in which a task runs is another one
    made = _missing_parents(output)
    try:
        make_folder(output)
        mine = output / f".preflight.{mark}"
        mine.write_text(mark)
    except OSError as error:
        raise as_user_error(error, output) from None
    try:
        with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as threads:
            answers = list(threads.map(lambda node: _ask(node, needs, mark), nodes))
        here = _describe(needs.plugins)
        warnings: list[str] = []
        for node, answer in zip(nodes, answers, strict=True):
            warnings += _compare(_name(node), answer, here, needs, mark)
        return warnings
    finally:
        for file in output.glob(f".preflight.{mark}*"):
            file.unlink(missing_ok=True)
        for folder in made:  # a refused start leaves nothing
            if not any(folder.iterdir()):
                folder.rmdir()


def _missing_parents(folder: Path) -> list[Path]:
    """The folders that `mkdir(parents=True)` will make, the deepest first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def _ask(node: Mapping[str, Any], needs: Needs, mark: str) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
    task = ray.remote(num_cpus=0, max_retries=1)(_answer).options(scheduling_strategy=strategy)
    reference = task.remote(needs, mark, node["NodeID"])
    try:
        answer: dict[str, Any] = ray.get(reference, timeout=TIMEOUT_S)
        return answer
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        raise UserError(
            f"the node {_name(node)} did not answer within {TIMEOUT_S:.0f} s; look at it with `ray status`, or stop it"
        ) from None
    except (ray.exceptions.RayError, ImportError) as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]  # before it stands a traceback
        reason = textwrap.shorten(last, 300, placeholder=" ...")
        raise UserError(
            f"the node {_name(node)} cannot run cxr_ray ({reason}): it needs the same Python and packages as the head, installed with "
            "the same constraints.txt"
        ) from None


def _answer(needs: Needs, mark: str, node_id: str) -> dict[str, Any]:
    """What this node sees. Runs as a Ray task on it."""
    found: dict[str, Any] = {**_describe(needs.plugins), "time": time.time(), "store": None, "output": None, "copy": ""}
    path = to_path(needs.store)
    try:
        found["store"] = "" if (path / "manifest.json").is_file() else "has no manifest.json there"
    except (OSError, UserError) as error:
        found["store"] = str(error)
    try:
        if isinstance(path, RemotePath) and not found["store"]:
            from cxr_ray.data import store as stores  # loads pyarrow

            stores.check_space(path, needs.cache)
    except (OSError, UserError) as error:
        found["copy"] = str(error)
    folder = Path(needs.output)
    try:
        if not (folder / f".preflight.{mark}").is_file():
            found["output"] = "does not see a file that was just written there"
        else:
            own = folder / f".preflight.{mark}.{node_id}"
            own.write_text(mark)
            found["output"] = "" if own.read_text() == mark else "reads another content than it wrote there"
            found["free"] = shutil.disk_usage(folder).free
    except OSError as error:
        found["output"] = f"cannot write there ({error.strerror})"
    return found


def _describe(plugins: Sequence[str]) -> dict[str, Any]:
    """Versions and plugins of this process's environment."""
    versions = {"Python": ".".join(map(str, sys.version_info[:2])), "cxr_ray": _own_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    missing = [name for name in plugins if importlib.util.find_spec(name.partition(".")[0]) is None]
    return {"versions": versions, "missing_plugins": missing, "machine": platform.machine(), "user": os.getuid()}


@cache
def _own_version() -> str:
    """The version with a digest of the code: two checkouts may have the same number."""
    code = hashlib.sha256()
    root = Path(cxr_ray.__file__).parent
    for file in sorted(root.rglob("*.py")):
        code.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return f"{cxr_ray.__version__}+{code.hexdigest()[:8]}"


def _compare(name: str, answer: dict[str, Any], here: dict[str, Any], needs: Needs, mark: str) -> list[str]:
    """Warnings about one node. Raises `UserError` for what would end the training."""
    if answer["store"]:
        where = "from the node" if isinstance(to_path(needs.store), RemotePath) else "on the node"
        raise UserError(
            f"the store {needs.store} cannot be read {where} {name}: it {answer['store']}; mount the same file system there at the same path, "
            "or put the store below a URL such as s3://"
        )
    if answer["copy"]:
        raise UserError(f"on the node {name}: {answer['copy']}")
    if answer["output"]:
        raise UserError(
            f"the output {needs.output} is not shared with the node {name}: it {answer['output']}; mount the same file system there at the "
            "same path, or give --output on one that all nodes see"
        )
    own = Path(needs.output)
    if not any(own.glob(f".preflight.{mark}.*")):
        raise UserError(
            f"the output {needs.output} on the node {name} is another folder than the one here; mount one file system on all nodes, or give "
            "--output on one"
        )
    different = [
        f"{package} {version} (here {here['versions'][package]})"
        for package, version in answer["versions"].items()
        if version != here["versions"][package]
    ]
    if different:
        raise UserError(
            f"the node {name} has {listed(different)}: install the same versions on all nodes, with `pip install -c constraints.txt`"
        )
    if answer["missing_plugins"]:
        raise UserError(
            f"the node {name} cannot import the plugins {', '.join(answer['missing_plugins'])}: put them into the working directory of the "
            "job, or install them there"
        )
    warnings = []
    if abs(answer["time"] - time.time()) > CLOCK_S:
        warnings.append(
            f"the clock of the node {name} differs by {answer['time'] - time.time():.0f} s; set it, since logs and leases use it"
        )
    if answer.get("free", LEAST_FREE) < LEAST_FREE:
        warnings.append(
            f"the disk of {needs.output} has {answer['free'] / 2**20:.0f} MiB left; checkpoints may not fit"
        )
    return warnings


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("NodeName") or node.get("NodeManagerAddress") or node["NodeID"][:12])
