"""Checkpoints of a run: immutable `step-N/` folders and the pointers `best` and `last`. No pickle.

A folder counts once its `manifest.json` is there, which is written last; a pointer is replaced by rename. So a kill at any
point leaves the previous checkpoint whole. A checkpoint is state, never config.
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

from cxr_ray.durable import Written, mendable, sha256, write_whole
from cxr_ray.errors import UserError

Tensors = dict[str, torch.Tensor]


class Checkpoint(NamedTuple):
    """What a training goes on from."""

    model: Tensors
    optimizer: dict[str, Any]
    """A torch optimiser's `state_dict()`."""
    state: dict[str, Any]
    """Plain JSON: epoch, batches done within it, step, best value."""
    within: Tensors
    """What an unfinished epoch has gathered so far; empty between epochs."""


class Writing:
    """A checkpoint on its way to `folder/step-N`: its tensors are written in a thread, beside what reads the model and does not
    change it, as judging. It counts once `end` has written its manifest. The arguments are as in `Checkpoint`; a whole one that is
    there already is kept."""

    def __init__(
        self, folder: Path, step: int, *, model: Tensors, optimizer: dict[str, Any], within: Tensors | None = None
    ) -> None:
        self.place = folder / f"step-{step:08d}"
        self._step = step
        tensors, self._rest = _flatten(optimizer)
        held = {"model.safetensors": model, "optimizer.safetensors": tensors}
        if within:
            held["within.safetensors"] = within
        self._files: Future[dict[str, Written]] = Future()
        self._whole = is_whole(self.place)
        if self._whole:
            return
        try:
            shutil.rmtree(self.place, ignore_errors=True)
            self.place.mkdir(parents=True)
        except OSError as error:
            self._files.set_exception(error)  # told by `end`, as all trouble: other ranks wait there, and not here
        else:
            threading.Thread(target=self._write, args=(held,), name="cxr-checkpoint", daemon=True).start()

    def _write(self, held: dict[str, Tensors]) -> None:
        try:
            self._files.set_result({name: write_whole(self.place / name, _dumped(t)) for name, t in held.items()})
        except BaseException as error:
            self._files.set_exception(error)

    def end(self, state: dict[str, Any]) -> Path:
        """Write what is left, the manifest last; the checkpoint's folder. Raises `UserError` on a full disk: what was there before
        stays."""
        if self._whole:
            return self.place
        try:
            files = dict(self._files.result())
            body = json.dumps({"state": state, "optimizer": self._rest}, sort_keys=True)
            files["state.json"] = write_whole(self.place / "state.json", body)
            said = {name: written._asdict() for name, written in files.items()}
            manifest = json.dumps({"step": self._step, "files": said}, indent=1, sort_keys=True)
            write_whole(self.place / "manifest.json", manifest)
        except BaseException as error:
            shutil.rmtree(self.place, ignore_errors=True)
            if isinstance(error, OSError):
                raise mendable(error, self.place) from None
            raise
        return self.place


def is_whole(place: Path) -> bool:
    """Whether the checkpoint folder `place` was written to its end and its files have their sizes."""
    try:
        manifest = json.loads((place / "manifest.json").read_text())
        return all((place / name).stat().st_size == said["bytes"] for name, said in manifest["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def load(place: Path) -> Checkpoint:
    """The checkpoint in the folder `place`, checked against its manifest. Raises `UserError` where it is broken."""
    if not is_whole(place):
        raise UserError(f"the checkpoint {place} is not whole; take another, or delete it and start the run again")
    manifest = json.loads((place / "manifest.json").read_text())
    for name, said in manifest["files"].items():
        if sha256(place / name) != said["sha256"]:
            raise UserError(f"{place / name} is not what was written (its checksum differs); take another checkpoint")
    body = json.loads((place / "state.json").read_text())
    optimizer = _unflatten(load_file(place / "optimizer.safetensors"), body["optimizer"])
    within = load_file(place / "within.safetensors") if "within.safetensors" in manifest["files"] else {}
    return Checkpoint(load_file(place / "model.safetensors"), optimizer, body["state"], within)


def state_of(place: Path) -> dict[str, Any]:
    """The state of a checkpoint alone, such as its epoch; no tensor is read."""
    return dict(json.loads((place / "state.json").read_text())["state"])


def point(folder: Path, name: str, place: Path) -> None:
    """Let the pointer `name` (best, last) say `place`, in one rename."""
    write_whole(folder / f"{name}.json", json.dumps({"checkpoint": place.name}))


def pointed(folder: Path, name: str) -> Path | None:
    """The whole checkpoint that `name` says, or None."""
    try:
        place = folder / json.loads((folder / f"{name}.json").read_text())["checkpoint"]
    except (OSError, ValueError, KeyError):
        return None
    return place if is_whole(place) else None


def prune(folder: Path) -> None:
    """Delete checkpoints that neither `best` nor `last` says."""
    kept = {pointed(folder, "best"), pointed(folder, "last")}
    for place in folder.glob("step-*"):
        if place not in kept:
            shutil.rmtree(place, ignore_errors=True)


def _dumped(tensors: Tensors) -> bytes:
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
