"""Checkpoints: whole or absent, no pickle, pointers that move by rename."""

import json

import pytest
import torch
from torch import nn

from cxr_ray.errors import UserError
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training import optim


def trained(kind, layout=torch.contiguous_format):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 16, 2))
    model.to(memory_format=layout)
    optimizer = kind(model.parameters(), lr=0.1)
    step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


KINDS = [
    lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True),
    lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.1, fused=True),
    lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
]


def written(folder, number, model, optimizer):
    return checkpoints.Writing(
        folder, number, model=model.state_dict(), optimizer=optimizer.state_dict(), state={"epoch": number}
    ).end()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=["adam", "adamw", "sgd"])
def test_the_next_step_after_loading_is_bit_equal(tmp_path, kind, layout):
    """Channels-last: torch's fused Adam pairs weights with moments by their place in memory."""
    model, optimizer = trained(kind, layout)
    place = written(tmp_path, 1, model, optimizer)
    other, other_optimizer = trained(kind, layout)
    step(other, other_optimizer)  # somewhere else
    weights, state_of_optimizer, state, within = checkpoints.load(place)
    assert within == {}
    other.load_state_dict(weights)
    other_optimizer.load_state_dict(state_of_optimizer)
    optim.lay_out_state(other_optimizer)
    assert state == {"epoch": 1}
    step(model, optimizer)
    step(other, other_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def saved(tmp_path, number):
    model, optimizer = trained(KINDS[0])
    return written(tmp_path, number, model, optimizer)


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path):
    assert sorted(p.name for p in saved(tmp_path, 1).iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


def test_it_counts_only_once_the_manifest_is_there(tmp_path):
    place = saved(tmp_path, 1)
    assert checkpoints.pointed(tmp_path, "last") == place
    (place / "manifest.json").unlink()
    assert checkpoints.pointed(tmp_path, "last") is None
    assert saved(tmp_path, 1) == place and checkpoints.is_whole(place)  # what was half written is written again


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_is_found_and_a_cut_file_is_not_whole(tmp_path, name):
    place = saved(tmp_path, 1)
    body = bytearray((place / name).read_bytes())
    body[len(body) // 2] ^= 1
    (place / name).write_bytes(body)
    with pytest.raises(UserError, match=f"{name} is not what was written"):
        checkpoints.load(place)
    (place / name).write_bytes(body[:-1])
    assert not checkpoints.is_whole(place)
    with pytest.raises(UserError, match="is not whole"):
        checkpoints.load(place)


def test_prune_keeps_what_the_pointers_say(tmp_path):
    places = [saved(tmp_path, n) for n in range(4)]
    checkpoints.point(tmp_path, "best", places[1])
    checkpoints.point(tmp_path, "last", places[3])
    checkpoints.prune(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [places[1].name, places[3].name]
    assert json.loads((tmp_path / "best.json").read_text()) == {"checkpoint": "step-00000001"}


def test_a_pointer_to_nothing_is_none(tmp_path):
    assert checkpoints.pointed(tmp_path, "last") is None
    (tmp_path / "last.json").write_text("{")
    assert checkpoints.pointed(tmp_path, "last") is None


def test_prune_keeps_what_a_pointer_says_though_it_cannot_be_read(tmp_path):
    """A file server that does not answer for a moment costs no checkpoint."""
    best, _ = saved(tmp_path, 1), saved(tmp_path, 2)
    checkpoints.point(tmp_path, "best", best)
    (best / "manifest.json").rename(best / "away")
    checkpoints.prune(tmp_path)
    assert best.exists() and checkpoints.pointed(tmp_path, "best") is None


def test_the_newest_that_is_sound_is_gone_on_from(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    (tmp_path / "step-00000000").mkdir()  # begun, and killed
    assert checkpoints.latest(tmp_path) is None
    places = [saved(tmp_path, n) for n in (1, 2, 3)]
    assert checkpoints.latest(tmp_path) == (places[2], "")
    (places[2] / "state.json").write_text("{")
    flipped = bytearray((places[1] / "model.safetensors").read_bytes())
    flipped[-1] ^= 1
    (places[1] / "model.safetensors").write_bytes(flipped)  # of its size, and not what was written
    found, said = checkpoints.latest(tmp_path)
    assert found == places[0] and "step-00000003) is damaged: going on from step-00000001" in said
    (places[0] / "optimizer.safetensors").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* is sound any more: put back a copy"):
        checkpoints.latest(tmp_path)


def test_what_judging_adds_counts_once_the_manifest_lists_it(tmp_path, monkeypatch):
    place = saved(tmp_path, 1)
    write = checkpoints.write_atomic

    def killed(path, body, **given):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        return write(path, body, **given)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.amend(place, {"judged": True})
    assert checkpoints.load(place).state == {"epoch": 1}
    checkpoints.amend(place, {"judged": True})
    assert checkpoints.load(place).state == {"epoch": 1, "judged": True}
