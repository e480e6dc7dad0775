"""Checkpoints on disk: `step-N/` folders whose tensors never change, and the pointers `last`, `best` and `judged`. No pickle.

A folder counts once its `manifest.json` exists, which is written last; pointers are replaced by rename. So a kill at any time
leaves the previous checkpoint intact. The result of an epoch's evaluation is added to its checkpoint later, as a file that counts
once the replaced manifest lists it. A checkpoint holds state, never configuration. When to write one: saver.py.
"""

import json
import shutil
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from safetensors.torch import save as dump

from cxr_ray.errors import UserError
from cxr_ray.storage.atomic import as_user_error, sha256, write_atomic

Tensors = dict[str, torch.Tensor]
POINTERS = ("last", "best", "judged")
EVALUATION_FILE = "judged.json"
"""State that the evaluation of the epoch adds."""


class Checkpoint(NamedTuple):
    """The state that a training resumes from."""

    model: Tensors
    optimizer: dict[str, Any]
    """A torch optimiser's `state_dict()`."""
    state: dict[str, Any]
    """Plain JSON: epoch, batches done within it, whether it is evaluated, step, best value (docs/reference/formats.md)."""
    within: Tensors
    """Outputs of its epoch so far; empty for the untrained model."""


class CheckpointWriter:
    """Writes a checkpoint to `folder/step-N` in a thread, while the caller may read the model but not change it.

    It counts, and `last` points to it, as soon as it is complete. The arguments are as in `Checkpoint`. An existing folder is
    replaced."""

    def __init__(
        self,
        folder: Path,
        step: int,
        *,
        model: Tensors,
        optimizer: dict[str, Any],
        state: dict[str, Any],
        within: Tensors | None = None,
    ) -> None:
        self.path = path_of(folder, step)
        optimizer_tensors, optimizer_rest = _flatten(optimizer)
        tensors = {"model.safetensors": model, "optimizer.safetensors": optimizer_tensors}
        if within:
            tensors["within.safetensors"] = within
        body = json.dumps({"state": state, "optimizer": optimizer_rest}, sort_keys=True)
        self._done: Future[None] = Future()
        threading.Thread(target=self._write, args=(step, tensors, body), name="cxr-checkpoint", daemon=True).start()

    def _write(self, step: int, tensors: dict[str, Tensors], body: str) -> None:
        path = self.path
        try:
            try:
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
                files = {name: write_atomic(path / name, _dump(values)) for name, values in tensors.items()}
                files["state.json"] = write_atomic(path / "state.json", body)
                _write_manifest(path, {"step": step, "files": {name: file._asdict() for name, file in files.items()}})
            except BaseException:
                shutil.rmtree(path, ignore_errors=True)
                raise
            set_pointer(path.parent, "last", path)  # if this fails, the pointer may still have moved
        except BaseException as error:
            self._done.set_exception(as_user_error(error, path) if isinstance(error, OSError) else error)
        else:
            self._done.set_result(None)

    def wait(self) -> Path:
        """Wait until it is written; the checkpoint's folder. Raises `UserError` on a full disk: earlier checkpoints remain."""
        self._done.result()
        return self.path


def path_of(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return folder / f"step-{step:08d}"


def add_evaluation(path: Path, changes: dict[str, Any]) -> None:
    """Update the state of a complete checkpoint by `changes`, atomically."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][EVALUATION_FILE] = write_atomic(
        path / EVALUATION_FILE, json.dumps(changes, sort_keys=True)
    )._asdict()
    _write_manifest(path, manifest)


def is_complete(path: Path) -> bool:
    """Whether the manifest of the checkpoint `path` exists and its files have the listed sizes."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        return all((path / name).stat().st_size == entry["bytes"] for name, entry in manifest["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def verify(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint `path`. Raises `UserError` if a file is missing or differs from its checksum. Reads all of it."""
    if not is_complete(path):
        raise UserError(f"the checkpoint {path} is incomplete; use another one, or delete it and start the run again")
    manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        if sha256(path / name) != entry["sha256"]:
            raise UserError(
                f"{path / name} has changed since it was written (its checksum differs); use another checkpoint"
            )
    return manifest


def is_valid(path: Path) -> bool:
    """Whether `verify` accepts the checkpoint. Reads all of it."""
    try:
        verify(path)
    except (UserError, OSError):
        return False
    return True


def load(path: Path) -> Checkpoint:
    """The checkpoint in the folder `path`, verified. Raises `UserError` if it is damaged."""
    files = verify(path)["files"]
    body = json.loads((path / "state.json").read_text())
    evaluation = json.loads((path / EVALUATION_FILE).read_text()) if EVALUATION_FILE in files else {}
    optimizer = _unflatten(load_file(path / "optimizer.safetensors"), body["optimizer"])
    within = load_file(path / "within.safetensors") if "within.safetensors" in files else {}
    return Checkpoint(load_file(path / "model.safetensors"), optimizer, {**body["state"], **evaluation}, within)


def latest(folder: Path) -> tuple[Path, str] | None:
    """The checkpoint to resume from and a warning: the target of `last` or, if that is damaged, the newest valid one.

    The warning is empty for an undamaged `last`. None if no checkpoint was ever completed. Raises `UserError` if there was one
    and none is valid."""
    last = _target(folder, "last")
    if last is not None and is_valid(last):
        return last, ""
    had_checkpoint = any((folder / f"{name}.json").exists() for name in POINTERS)
    for path in sorted(folder.glob("step-*"), reverse=True):
        if path != last and is_valid(path):
            what = "the pointer to the last checkpoint" if last is None else f"the last checkpoint ({last.name})"
            warning = f"warning: {what} is damaged: resuming from {path.name}, the newest valid one"
            return path, warning if had_checkpoint else ""
    if not had_checkpoint:
        return None
    raise UserError(
        f"no checkpoint in {folder} is valid: restore a copy of one with its pointers, or delete that folder to train from the start"
    )


def read_state(path: Path) -> dict[str, Any]:
    """The state of a checkpoint as it was when training wrote it, such as its epoch. Reads no tensors and verifies nothing."""
    return dict(json.loads((path / "state.json").read_text())["state"])


def set_pointer(folder: Path, name: str, path: Path) -> None:
    """Let the pointer `name` (of `POINTERS`) point to `path`, atomically."""
    write_atomic(folder / f"{name}.json", json.dumps({"checkpoint": path.name}))


def pointer_target(folder: Path, name: str) -> Path | None:
    """The checkpoint that the pointer `name` points to; None if it is incomplete or there is no pointer."""
    path = _target(folder, name)
    return path if path is not None and is_complete(path) else None


def prune(folder: Path) -> None:
    """Delete checkpoints without a pointer. A target that cannot be read now stays: a disk may become available again."""
    targets = {_target(folder, name) for name in POINTERS}
    for path in folder.glob("step-*"):
        if path not in targets:
            shutil.rmtree(path, ignore_errors=True)


def _target(folder: Path, name: str) -> Path | None:
    """The target of the pointer `name`, complete or not; None if the pointer cannot be read."""
    try:
        return folder / str(json.loads((folder / f"{name}.json").read_text())["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    write_atomic(path / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True))


def _dump(tensors: Tensors) -> bytes:
    return dump({name: value.detach().contiguous().cpu() for name, value in tensors.items()})


def _flatten(optimizer: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """An optimiser's state as named tensors and plain JSON."""
    tensors: Tensors = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, slots in optimizer["state"].items():
        for slot, value in slots.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{slot}"] = value
            else:
                plain.setdefault(str(index), {})[slot] = value
    return tensors, {"plain": plain, "groups": optimizer["param_groups"]}


def _unflatten(tensors: Tensors, rest: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(i): dict(slots) for i, slots in rest["plain"].items()}
    for name, value in tensors.items():
        index, slot = name.split(".", 1)
        state.setdefault(int(index), {})[slot] = value
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in rest["groups"]]
    return {"state": state, "param_groups": groups}
