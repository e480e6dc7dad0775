"""Checkpoints of a run: `step-N/` folders whose tensors never change, and the pointers `last`, `best` and `judged`. No pickle.

A folder counts once its `manifest.json` is there, which is written last; a pointer is replaced by rename. So a kill at any
point leaves the previous checkpoint whole. What is learnt of a checkpoint later, by judging it, is laid beside its state, and
counts once the manifest, replaced by rename, lists it. A checkpoint is state, never config.
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
from cxr_ray.storage.atomic import fixable, sha256, write_atomic

Tensors = dict[str, torch.Tensor]
POINTERS = ("last", "best", "judged")
AMENDED = "judged.json"
"""What judging has added to a checkpoint's state."""


class Checkpoint(NamedTuple):
    """What a training goes on from."""

    model: Tensors
    optimizer: dict[str, Any]
    """A torch optimiser's `state_dict()`."""
    state: dict[str, Any]
    """Plain JSON: epoch, batches done within it, whether it is judged, step, best value."""
    within: Tensors
    """What its epoch has gathered so far; empty for the untrained model."""


class Writing:
    """A checkpoint on its way to `folder/step-N`: written in a thread, beside what reads the model and does not change it, as
    judging. It counts, and `last` says it, as soon as it is whole. The arguments are as in `Checkpoint`; what lies there already
    is written anew."""

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
        self.place = at(folder, step)
        tensors, rest = _flatten(optimizer)
        held = {"model.safetensors": model, "optimizer.safetensors": tensors}
        if within:
            held["within.safetensors"] = within
        body = json.dumps({"state": state, "optimizer": rest}, sort_keys=True)
        self._done: Future[None] = Future()
        threading.Thread(target=self._write, args=(step, held, body), name="cxr-checkpoint", daemon=True).start()

    def _write(self, step: int, held: dict[str, Tensors], body: str) -> None:
        place = self.place
        try:
            try:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                files = {name: write_atomic(place / name, _dumped(tensors)) for name, tensors in held.items()}
                files["state.json"] = write_atomic(place / "state.json", body)
                _write_manifest(place, {"step": step, "files": {name: one._asdict() for name, one in files.items()}})
            except BaseException:
                shutil.rmtree(place, ignore_errors=True)
                raise
            point(place.parent, "last", place)  # where this fails, the pointer may have moved all the same
        except BaseException as error:
            self._done.set_exception(fixable(error, place) if isinstance(error, OSError) else error)
        else:
            self._done.set_result(None)

    def end(self) -> Path:
        """Wait for it; the checkpoint's folder. Raises `UserError` on a full disk: what was there before stays."""
        self._done.result()
        return self.place


def at(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def amend(place: Path, changes: dict[str, Any]) -> None:
    """Lay `changes` on the state of a whole checkpoint: all of them, or none where that is cut short."""
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"][AMENDED] = write_atomic(place / AMENDED, json.dumps(changes, sort_keys=True))._asdict()
    _write_manifest(place, manifest)


def is_whole(place: Path) -> bool:
    """Whether the checkpoint folder `place` was written to its end and its files have their sizes."""
    try:
        manifest = json.loads((place / "manifest.json").read_text())
        return all((place / name).stat().st_size == said["bytes"] for name, said in manifest["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def check(place: Path) -> dict[str, Any]:
    """The manifest of the checkpoint in the folder `place`, whose files are what was written. Raises `UserError` where one is not."""
    if not is_whole(place):
        raise UserError(f"the checkpoint {place} is not whole; take another, or delete it and start the run again")
    manifest: dict[str, Any] = json.loads((place / "manifest.json").read_text())
    for name, said in manifest["files"].items():
        if sha256(place / name) != said["sha256"]:
            raise UserError(f"{place / name} is not what was written (its checksum differs); take another checkpoint")
    return manifest


def is_sound(place: Path) -> bool:
    """Whether `check` has nothing against the checkpoint. Reads all of it."""
    try:
        check(place)
    except (UserError, OSError):
        return False
    return True


def load(place: Path) -> Checkpoint:
    """The checkpoint in the folder `place`, checked against its manifest. Raises `UserError` where it is broken."""
    files = check(place)["files"]
    body = json.loads((place / "state.json").read_text())
    later = json.loads((place / AMENDED).read_text()) if AMENDED in files else {}
    optimizer = _unflatten(load_file(place / "optimizer.safetensors"), body["optimizer"])
    within = load_file(place / "within.safetensors") if "within.safetensors" in files else {}
    return Checkpoint(load_file(place / "model.safetensors"), optimizer, {**body["state"], **later}, within)


def latest(folder: Path) -> tuple[Path, str] | None:
    """The checkpoint to go on from: what `last` says or, where that is damaged, the newest that is sound, and then a line that
    says so (else an empty one). None where no checkpoint was ever finished. Raises `UserError` where one was, and none is sound."""
    last = _named(folder, "last")
    if last is not None and is_sound(last):
        return last, ""
    began = any((folder / f"{name}.json").exists() for name in POINTERS)
    for place in sorted(folder.glob("step-*"), reverse=True):
        if place != last and is_sound(place):
            what = "the pointer to the last checkpoint" if last is None else f"the last checkpoint ({last.name})"
            said = f"warning: {what} is damaged: going on from {place.name}, the newest that is sound"
            return place, said if began else ""
    if not began:
        return None
    raise UserError(
        f"no checkpoint in {folder} is sound any more: put back a copy of one with its pointers, or delete that folder to "
        "train from the start"
    )


def state_of(place: Path) -> dict[str, Any]:
    """The state of a checkpoint alone, such as its epoch; no tensor is read."""
    return dict(json.loads((place / "state.json").read_text())["state"])


def point(folder: Path, name: str, place: Path) -> None:
    """Let the pointer `name` (of `POINTERS`) say `place`, in one rename."""
    write_atomic(folder / f"{name}.json", json.dumps({"checkpoint": place.name}))


def pointed(folder: Path, name: str) -> Path | None:
    """The whole checkpoint that `name` says, or None."""
    place = _named(folder, name)
    return place if place is not None and is_whole(place) else None


def prune(folder: Path) -> None:
    """Delete checkpoints that no pointer says. One that is said stays, also where it cannot be read now: a disk may come back."""
    kept = {_named(folder, name) for name in POINTERS}
    for place in folder.glob("step-*"):
        if place not in kept:
            shutil.rmtree(place, ignore_errors=True)


def _named(folder: Path, name: str) -> Path | None:
    """What the pointer `name` says, whole or not; None where there is no pointer that can be read."""
    try:
        return folder / str(json.loads((folder / f"{name}.json").read_text())["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_manifest(place: Path, manifest: dict[str, Any]) -> None:
    write_atomic(place / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True))


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
