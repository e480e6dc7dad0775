"""`cxr-ray init`: writes a commented config for a store, with image size, batch size and precision for this machine."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from cyclopts import App

from cxr_ray import config as configs
from cxr_ray.cli import flags, next_steps
from cxr_ray.errors import UserError
from cxr_ray.labels import UNCERTAIN, label_values
from cxr_ray.storage.atomic import make_folder, write_atomic

app = App(name="init", help_format="markdown")

USUAL_SIDE = 224
"""Pixels; the usual input of the models. A CPU gets at most this."""
GPU_SIDE = 512
IMAGES_PER_GIB = 8
"""Images of 224 x 224 px whose training fits in one GiB, for densenet121 in bf16; smaller networks need less."""
MOST_IMAGES = {"cuda": 256, "cpu": 64}
"""Largest batch size that is suggested, by device."""
FEWEST_STEPS = 8
"""Steps per epoch that a small store should have."""
LISTED_LABELS = 40
"""More labels than this are written as `all`."""


class Machine(NamedTuple):
    """What this machine trains with."""

    device: str
    """cuda or cpu."""
    about: str
    memory_gib: float
    """Of the GPU, or free memory of the machine; 0 if unknown."""
    precision: str
    """What `train.precision: auto` is here."""


@app.default
def init(store: str, /, *, out: Path | None = None) -> None:
    """Write a commented config for a store, to edit and train with.

    It has the store's task and labels with their frequencies, an image size and a batch size for this machine, and the metric that
    selects the best epoch for the task. All other settings have their defaults: `cxr-ray config -c FILE` shows them.

    Parameters
    ----------
    store
        Folder or URL of the store.
    out
        File to write. Default: the store's name with .yaml, in this folder. An existing file is not overwritten.
    """
    from cxr_ray.data import store as stores

    opened = stores.open(store)
    file = out or Path(f"{opened.name}.yaml")
    if file.exists():
        raise UserError(f"{file.resolve()} already exists; give another file with --out FILE, or delete it")
    text = write_config(opened, store, file, this_machine())
    make_folder(file.absolute().parent)
    write_atomic(file, text)
    print(f"config: {file.resolve()}")
    next_steps.show(f"edit it, then: {command(file)}")


def command(file: Path) -> str:
    """The command that trains with the config in `file`."""
    return f"cxr-ray train -c {shlex.quote(str(file))}"


def this_machine() -> Machine:
    """The device that training would use here, its memory and its precision."""
    import torch

    from cxr_ray.cli.commands.doctor import GIB
    from cxr_ray.runtime import precision
    from cxr_ray.runtime.context import pick_device
    from cxr_ray.runtime.machine import memory_bytes

    device = pick_device("auto")
    name = precision.pick("auto", device).name
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        size = properties.total_memory / GIB
        return Machine("cuda", f"{properties.name}, {size:.0f} GiB", size, name)
    _, free = memory_bytes()
    return Machine("cpu", f"CPU, {free / GIB:.0f} GiB of memory free", free / GIB, name)


def image_size(store_HW: tuple[int, int], device: str) -> tuple[int, int]:
    """(height, width) in pixels: the store's, with the longer side limited to what the device trains at a reasonable speed."""
    longest = USUAL_SIDE if device == "cpu" else GPU_SIDE
    factor = min(1.0, longest / max(store_HW))
    return max(1, round(store_HW[0] * factor)), max(1, round(store_HW[1] * factor))


def batch_size(train_rows: int, size_HW: tuple[int, int], machine: Machine) -> int:
    """A power of two: what fits the memory, at most `MOST_IMAGES`, and small enough for `FEWEST_STEPS` steps per epoch."""
    area = size_HW[0] * size_HW[1] / USUAL_SIDE**2
    share = 1.0 if machine.device == "cuda" else 0.5  # other programs use the memory too
    bytes_factor = 1.0 if machine.precision in ("bf16", "fp16") else 0.5
    fits = machine.memory_gib * share * IMAGES_PER_GIB * bytes_factor / area if machine.memory_gib else 16.0
    most = min(fits, MOST_IMAGES[machine.device], max(train_rows / FEWEST_STEPS, 4.0))
    power = 1
    while power * 2 <= most:
        power *= 2
    return power


def write_config(store: Any, given: str, file: Path, machine: Machine) -> str:
    """The commented YAML for an opened store, checked: it is loaded, and the rows are split with it. Raises `UserError`."""
    from cxr_ray.data import plan as plans

    size = image_size(store.size, machine.device)
    first = configs.validate({"data": {"shards": given, "image_size": size}})
    plan = plans.build(store, first.data, seed=first.seed)
    config = first.for_task(plan.task)
    # for_task changes the metric only; written explicitly, so that a reader finds it.
    train = {
        "epochs": 10,
        "batch_size": batch_size(len(plan.rows["train"]), size, machine),
        "monitor": config.train.monitor,
    }
    text = _yaml(store, given, file, machine, plan, size, train)
    loaded = configs.validate(yaml.safe_load(text), where="the new config")
    plans.build(store, loaded.data, seed=loaded.seed)
    return text


def _yaml(
    store: Any, given: str, file: Path, machine: Machine, plan: Any, size: tuple[int, int], train: dict[str, Any]
) -> str:
    parts = {part: len(rows) for part, rows in plan.rows.items()}
    counted = ", ".join(f"{n:,} {part}" for part, n in parts.items())
    stored = f"{store.size[0]} x {store.size[1]} px"
    lines = [
        f"# {store.manifest.source}: {len(store):,} images of {stored}, {store.task}. Written by cxr-ray init for this machine:",
        f"# {machine.about}. Settings that are not listed have their defaults; cxr-ray config -c {shlex.quote(str(file))} shows all.",
        "#",
        f"#   {command(file)}",
        *(f"# Note: {' '.join(note.split())}" for note in store.info.notes),
        "data:",
        _line("shards", given, ""),
        _line("task", plan.task, "multilabel, multiclass or binary"),
        *_labels(store, plan),
        *_uncertain(store, plan),
        *_derive(plan),
        _line("image_size", list(size), _size_comment(store.size, size, machine)),
        "  split:",
        _line("by", "patient", _patients(store), indent=4),
        _line("val", 0.1, f"fraction of the rows{_official(store, 'val')}", indent=4),
        _line("test", 0.2, f"with these: {counted}{_official(store, 'test')}", indent=4),
        "model:",
        _line("name", "resnet18", "cxr-ray models lists the others"),
        _line("weights", "none", "imagenet (downloaded once), a file, or the folder of another run"),
        "optim:",
        _line("lr", 1.0e-4, "highest learning rate"),
        "train:",
        _line("epochs", train["epochs"], ""),
        _line("batch_size", train["batch_size"], "images per step, of all workers together"),
        _line("precision", "auto", f"on this machine: {machine.precision}"),
        _line("monitor", train["monitor"], "the metric that selects the best epoch"),
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, value: Any, comment: str, indent: int = 2) -> str:
    body = f"{' ' * indent}{name}: {flags.plain(value)}"
    return f"{body:<32}# {comment}" if comment else body


def _labels(store: Any, plan: Any) -> list[str]:
    """The labels, one a line with its frequency, so that a line can be deleted."""
    groups = f"; groups: {', '.join(store.info.groups)}" if store.info.groups else ""
    if len(plan.labels) > LISTED_LABELS:
        return [_line("labels", "all", f"{len(plan.labels)} labels; or a list{groups}")]
    what = "the classes" if plan.task == "multiclass" else "delete lines to train on fewer"
    lines = [f"{'  labels:':<32}# {what}{groups}"]
    raw = label_values(store.index, plan.labels)
    for label in plan.labels:
        values = raw[label]
        counts = [f"{int((values == 1).sum()):,} positive"]
        if uncertain := int((values == -1).sum()):
            counts.append(f"{uncertain:,} uncertain")
        lines.append(f"{f'    - {flags.plain(label)}':<32}# {', '.join(counts)} of {len(values):,}")
    return lines


def _uncertain(store: Any, plan: Any) -> list[str]:
    """The training target of uncertain values, if there are any."""
    if not (label_values(store.index, plan.labels) == UNCERTAIN).to_numpy().any():
        return []
    return [_line("uncertain", "zeros", "target of uncertain values: zeros, ones, ignore or smooth; also by label")]


def _derive(plan: Any) -> list[str]:
    """How to make a label of several, with two labels of this store as the example."""
    if plan.task != "multilabel" or len(plan.labels) < 2:
        return []
    example = flags.plain({"NAME": {"any": list(plan.labels[:2])}})
    return [_line("derive", {}, f"new labels from several, such as {example}")]


def _size_comment(stored: tuple[int, int], size: tuple[int, int], machine: Machine) -> str:
    if size == tuple(stored):
        return "height, width: the store's"
    reason = "slow" if machine.device == "cpu" else "large"
    return f"height, width; the store's {stored[0]} x {stored[1]} would be {reason} here"


def _patients(store: Any) -> str:
    if store.index["patient"].isna().all():
        return "the store has no patients: each image counts as one"
    return f"{store.index['patient'].nunique():,} patients, each in one part"


def _official(store: Any, part: str) -> str:
    """A remark if the dataset has its own list of a part."""
    return "; official: the dataset's own list" if (store.index["split"] == part).any() else ""
