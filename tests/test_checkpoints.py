"""Checkpoints: whole or absent, no pickle, pointers that move by rename."""

import json

import pytest
import torch
from torch import nn

from cxr_ray import checkpoints, optim
from cxr_ray.errors import UserError


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
    writing = checkpoints.Writing(folder, number, model=model.state_dict(), optimizer=optimizer.state_dict())
    return writing.end({"epoch": number})


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
    checkpoints.point(tmp_path, "last", place)
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
