"""Checkpoints on disk: complete or absent, no pickle, pointers that move by rename."""

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cxr_ray.errors import UserError
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training import optim

MakeOptimizer = Callable[..., torch.optim.Optimizer]


def trained(
    make: MakeOptimizer, layout: torch.memory_format = torch.contiguous_format
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network after one step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 16, 2))
    model.to(memory_format=layout)
    optimizer = make(model.parameters(), lr=0.1)
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.1, fused=True),
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
}


def write(folder: Path, number: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    return checkpoints.CheckpointWriter(
        folder, number, model=model.state_dict(), optimizer=optimizer.state_dict(), state={"epoch": number}
    ).wait()


def saved(folder: Path, number: int) -> Path:
    """The checkpoint of step and epoch `number`."""
    return write(folder, number, *trained(OPTIMIZERS["adam"]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_step_after_loading_is_bit_equal(tmp_path: Path, name: str, layout: torch.memory_format) -> None:
    """Channels-last: torch's fused Adam pairs weights with moments by memory position."""
    model, optimizer = trained(OPTIMIZERS[name], layout)
    path = write(tmp_path, 1, model, optimizer)
    other, other_optimizer = trained(OPTIMIZERS[name], layout)
    step(other, other_optimizer)  # to another state
    weights, optimizer_state, state, within = checkpoints.load(path)
    assert within == {}
    other.load_state_dict(weights)
    other_optimizer.load_state_dict(optimizer_state)
    optim.match_memory_format(other_optimizer)
    assert state == {"epoch": 1}
    step(model, optimizer)
    step(other, other_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    assert sorted(p.name for p in saved(tmp_path, 1).iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


def test_it_counts_only_once_the_manifest_exists(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    assert checkpoints.pointer_target(tmp_path, "last") == path
    (path / "manifest.json").unlink()
    assert checkpoints.pointer_target(tmp_path, "last") is None
    assert saved(tmp_path, 1) == path and checkpoints.is_complete(path)  # an incomplete one is written again


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_is_found_and_a_truncated_file_is_incomplete(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, 1)
    body = bytearray((path / name).read_bytes())
    body[len(body) // 2] ^= 1
    (path / name).write_bytes(body)
    with pytest.raises(UserError, match=f"{name} has changed since it was written"):
        checkpoints.load(path)
    (path / name).write_bytes(body[:-1])
    assert not checkpoints.is_complete(path)
    with pytest.raises(UserError, match="is incomplete"):
        checkpoints.load(path)


def test_prune_keeps_the_targets_of_the_pointers(tmp_path: Path) -> None:
    paths = [saved(tmp_path, n) for n in range(4)]
    checkpoints.set_pointer(tmp_path, "best", paths[1])
    checkpoints.set_pointer(tmp_path, "last", paths[3])
    checkpoints.prune(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [paths[1].name, paths[3].name]
    assert json.loads((tmp_path / "best.json").read_text()) == {"checkpoint": "step-00000001"}


def test_an_unreadable_pointer_has_no_target(tmp_path: Path) -> None:
    assert checkpoints.pointer_target(tmp_path, "last") is None
    for text in ("{", "{}", "[]"):
        (tmp_path / "last.json").write_text(text)
        assert checkpoints.pointer_target(tmp_path, "last") is None


def test_prune_keeps_a_target_that_cannot_be_read(tmp_path: Path) -> None:
    """A file server that is down for a moment costs no checkpoint."""
    best, _ = saved(tmp_path, 1), saved(tmp_path, 2)
    checkpoints.set_pointer(tmp_path, "best", best)
    (best / "manifest.json").rename(best / "away")
    checkpoints.prune(tmp_path)
    assert best.exists() and checkpoints.pointer_target(tmp_path, "best") is None


def test_the_latest_is_the_newest_valid_one(tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path) is None
    (tmp_path / "step-00000000").mkdir()  # killed while it was written
    assert checkpoints.latest(tmp_path) is None
    paths = [saved(tmp_path, n) for n in (1, 2, 3)]
    assert checkpoints.latest(tmp_path) == (paths[2], "")
    (paths[2] / "state.json").write_text("{")
    path, warning = checkpoints.latest(tmp_path) or (None, "")
    assert path == paths[1] and "resuming from step-00000002, the newest valid one" in warning
    flipped = bytearray((paths[1] / "model.safetensors").read_bytes())
    flipped[-1] ^= 1
    (paths[1] / "model.safetensors").write_bytes(flipped)  # the right size, with another checksum
    path, warning = checkpoints.latest(tmp_path) or (None, "")
    assert path == paths[0] and "step-00000003) is damaged: resuming from step-00000001" in warning
    (paths[0] / "optimizer.safetensors").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* is valid: restore a copy"):
        checkpoints.latest(tmp_path)


def test_an_added_evaluation_counts_once_the_manifest_lists_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, 1)
    write_atomic = checkpoints.write_atomic

    def killed(file: Path, body: Any, **options: Any) -> Any:
        if file.name == "manifest.json":
            raise KeyboardInterrupt
        return write_atomic(file, body, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.add_evaluation(path, {"judged": True})
    assert checkpoints.load(path).state == {"epoch": 1}
    checkpoints.add_evaluation(path, {"judged": True})
    assert checkpoints.load(path).state == {"epoch": 1, "judged": True}
    assert checkpoints.read_state(path) == {"epoch": 1}  # as training wrote it


def test_the_manifest_lists_every_other_file_with_its_size_and_checksum(tmp_path: Path) -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    checkpoints.CheckpointWriter(
        tmp_path,
        7,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        state={"epoch": 1},
        within={"logits": torch.arange(3.0)},
    ).wait()
    path = tmp_path / "step-00000007"
    manifest = json.loads((path / "manifest.json").read_text())
    names = {"model.safetensors", "optimizer.safetensors", "within.safetensors", "state.json"}
    assert manifest == checkpoints.verify(path) and set(manifest) == {"step", "files"} and manifest["step"] == 7
    assert set(manifest["files"]) == names == {p.name for p in path.iterdir()} - {"manifest.json"}
    for name, entry in manifest["files"].items():
        body = (path / name).read_bytes()
        assert entry == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert checkpoints.load(path).within["logits"].tolist() == [0.0, 1.0, 2.0]
    checkpoints.add_evaluation(path, {"judged": True})
    after = json.loads((path / "manifest.json").read_text())
    assert {name: after["files"][name] for name in names} == manifest["files"]
    assert set(after["files"]) == {*names, "judged.json"} and after["step"] == 7


@pytest.mark.parametrize("name", ["optimizer.safetensors", "state.json", "manifest.json"])
def test_a_write_that_fails_leaves_no_folder_and_the_pointer_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    first = saved(tmp_path, 1)
    write_atomic = checkpoints.write_atomic

    def full(file: Path, body: Any, **options: Any) -> Any:
        if file.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_atomic(file, body, **options)

    monkeypatch.setattr(checkpoints, "write_atomic", full)
    with pytest.raises(UserError, match="space"):
        saved(tmp_path, 2)
    assert [p.name for p in tmp_path.glob("step-*")] == [first.name]
    assert checkpoints.latest(tmp_path) == (first, "")


def test_an_existing_folder_is_replaced(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    (path / "judged.json").write_text("{}")
    assert saved(tmp_path, 1) == path and not (path / "judged.json").exists()


def test_a_checkpoint_without_any_pointer_is_used_without_a_warning(tmp_path: Path) -> None:
    """As after a kill between the first manifest and the first pointer. A pointer that is damaged is a warning."""
    path = saved(tmp_path, 1)
    (tmp_path / "last.json").unlink()
    assert checkpoints.latest(tmp_path) == (path, "")
    checkpoints.set_pointer(tmp_path, "best", path)
    _, warning = checkpoints.latest(tmp_path) or (None, "")
    assert warning.startswith("warning: the pointer to the last checkpoint is damaged: resuming from step-00000001")


@pytest.mark.parametrize("manifest", ["{}", "{", '{"files": {"gone": {"bytes": 0}}}', '{"files": {"state.json": {}}}'])
def test_a_damaged_manifest_makes_a_checkpoint_incomplete(tmp_path: Path, manifest: str) -> None:
    path = saved(tmp_path, 1)
    (path / "manifest.json").write_text(manifest)
    assert not checkpoints.is_complete(path) and not checkpoints.is_valid(path)


def test_optimizer_state_that_is_not_a_tensor_is_restored(tmp_path: Path) -> None:
    state = {
        "state": {0: {"step": 3, "moment": torch.ones(2)}, 2: {"step": 4, "a.b": torch.zeros(1)}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 2]}],
    }
    path = checkpoints.CheckpointWriter(tmp_path, 1, model={}, optimizer=state, state={}).wait()
    loaded = checkpoints.load(path).optimizer
    assert loaded["param_groups"] == state["param_groups"] and loaded["state"].keys() == {0, 2}
    assert loaded["state"][0]["step"] == 3 and loaded["state"][0]["moment"].tolist() == [1.0, 1.0]
    assert loaded["state"][2]["step"] == 4 and loaded["state"][2]["a.b"].tolist() == [0.0]


def test_prune_leaves_what_it_cannot_delete(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    (tmp_path / "step-of-somebody-else").write_text("a file, not a folder")
    checkpoints.prune(tmp_path)
    assert {p.name for p in tmp_path.glob("step-*")} == {path.name, "step-of-somebody-else"}
