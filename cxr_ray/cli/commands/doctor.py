"""`cxr-ray doctor`: checks packages, devices, memory, disks and the Ray setup, and prints how to fix each problem."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from cyclopts import App

from cxr_ray import __version__
from cxr_ray.cli import next_steps
from cxr_ray.cli.terminal import table
from cxr_ray.errors import masked
from cxr_ray.runtime import cpu, machine

app = App(name="doctor", help_format="markdown")

GIB = 1024**3
DASHBOARD = ("aiohttp", "aiohttp_cors", "prometheus_client", "opencensus")
"""Modules that the extra `ray[default]` installs. Without them there is no dashboard and no job submission."""

OPTIONAL = {
    "tensorboard": "TensorBoard, to view runs: pip install tensorboard",
    "mlflow-skinny": "report.trackers: [mlflow] needs it: pip install -c constraints.txt 'cxr_ray[mlflow]'",
    "optuna": "tune.search: optuna needs it: pip install -c constraints.txt 'cxr_ray[optuna]'",
}
"""Optional packages, with their purpose and how to install them."""


class Finding(NamedTuple):
    """One check and its result; `fix` is empty if there is no problem."""

    what: str
    found: str
    fix: str = ""


@app.default
def doctor(*, output: Path = Path("runs")) -> int:
    """Check this machine's packages, devices, memory and disks, and show how to fix problems.

    Exit code 0 if there is no problem, 2 if there is.

    Parameters
    ----------
    output
        Folder for runs: its disk is checked.
    """
    findings = [*software(), *hardware(), *storage(output), *cluster()]
    table(["", "check", "found"], [["!!" if f.fix else "ok", f.what, f.found] for f in findings])
    problems = [f for f in findings if f.fix]
    for finding in problems:
        print(f"{finding.what}: {finding.fix}")
    if problems:
        print(f"{len(problems)} to fix, then: cxr-ray doctor")
        return 2
    print("no problems found")
    next_steps.show("cxr-ray demo")
    return 0


def software() -> Iterator[Finding]:
    """Python and the packages. Torch is imported too, since its import may fail although it is installed."""
    old = sys.version_info < (3, 11)
    yield Finding(
        "python", f"{platform.python_version()} at {sys.executable}", "install Python 3.11 or newer" if old else ""
    )
    yield Finding("cxr_ray", __version__)
    for name in ("pandas", "pyarrow", "scikit-learn", "pillow"):
        yield version(name)
    yield torch_works()
    yield version("ray")
    missing = [name for name in DASHBOARD if importlib.util.find_spec(name) is None]
    yield Finding(
        "ray dashboard and jobs",
        f"missing {', '.join(missing)}" if missing else "installed",
        "pip install 'ray[data,default,train,tune]': job submission needs the extra `default`" if missing else "",
    )
    for name, use in OPTIONAL.items():
        found = version(name)
        yield found._replace(found=f"not installed. {use}", fix="") if found.fix else found


def version(name: str) -> Finding:
    """The installed version of a distribution."""
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", f"pip install -c constraints.txt {name}")


def torch_works() -> Finding:
    """Whether torch and torchvision load together: some combinations of builds do not."""
    try:
        import torch
        import torchvision
        from torchvision.extension import _has_ops
    except Exception as error:
        return Finding(
            "torch", f"{type(error).__name__}: {error}", "install torch and torchvision as constraints.txt pins them"
        )
    found = f"{torch.__version__} with torchvision {torchvision.__version__}"
    if not _has_ops():
        return Finding("torch", found, "torchvision's operators do not load: install both as constraints.txt pins them")
    return Finding("torch", found)


def hardware() -> Iterator[Finding]:
    """Cores, memory, bf16 support and GPUs."""
    yield Finding("cores", str(machine.cores()))
    total, free = machine.memory_bytes()
    too_little = 0 < free < 2 * GIB
    yield Finding(
        "memory",
        f"{free / GIB:.1f} GiB free of {total / GIB:.1f}",
        "free some memory: Ray and one worker need about 2 GiB" if too_little else "",
    )
    bf16 = cpu.bf16_instructions()
    yield Finding("bf16 on the CPU", f"{bf16 or 'none'}: train.precision auto is {'bf16' if bf16 else 'fp32'}")
    yield gpus()


def gpus() -> Finding:
    """GPUs that torch can use. A GPU that torch cannot use is a problem."""
    try:
        import torch

        names = (
            [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            if torch.cuda.is_available()
            else []
        )
    except Exception as error:
        return Finding("GPU", f"{type(error).__name__}: {error}", "install torch as constraints.txt pins it")
    if not names and Path("/proc/driver/nvidia/version").exists():
        return Finding(
            "GPU",
            "an NVIDIA driver, but torch finds no GPU",
            "install a torch built for this driver's CUDA, or set train.gpu false",
        )
    return Finding("GPU", ", ".join(names) or "none: training runs on the CPU")


def storage(output: Path) -> Iterator[Finding]:
    """Free space and permissions of the folder for runs, and space for Ray's session folder and object store."""
    existing = output.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    fix = ""
    if not existing.is_dir():
        fix = f"{existing} is a file: choose another --output"
    elif not os.access(existing, os.W_OK):
        fix = f"{existing} is not writable: choose another --output, or change its permissions"
    elif free < GIB:
        fix = "free at least 1 GiB, or choose another --output"
    yield Finding(f"disk of {output}", f"{free / GIB:.1f} GiB free", fix)
    session = shutil.disk_usage("/tmp")
    full = session.free < 0.05 * session.total
    yield Finding(
        "disk of /tmp",
        f"{session.free / GIB:.1f} GiB free",
        "Ray stops writing when its disk is 95% full: free some of /tmp" if full else "",
    )
    shm = Path("/dev/shm")
    if shm.is_dir():
        free = shutil.disk_usage(shm).free
        too_little = free < 256 * 1024**2
        yield Finding(
            "/dev/shm",
            f"{free / GIB:.1f} GiB free",
            "give the container more shared memory, such as --shm-size=2g" if too_little else "",
        )


def cluster() -> Iterator[Finding]:
    """The Ray cluster that the environment selects, and its authentication token."""
    address = os.environ.get("RAY_ADDRESS")
    yield Finding("RAY_ADDRESS", masked(address) if address else "not set: without --address, Ray runs on this machine")
    mode = os.environ.get("RAY_AUTH_MODE")
    token = (
        bool(os.environ.get("RAY_AUTH_TOKEN"))
        or Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser().exists()
    )
    found = f"RAY_AUTH_MODE {mode or 'not set'}, {'token found' if token else 'no token'}"
    fix = ""
    if mode == "token" and not token:
        fix = "run `ray get-auth-token --generate`, or copy the cluster's token to ~/.ray/auth_token"
    elif address and token and mode is None:
        fix = "export RAY_AUTH_MODE=token here as well: a head node with a token refuses clients without one"
    yield Finding("ray token", found, fix)
