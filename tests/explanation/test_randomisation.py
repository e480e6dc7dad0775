"""Randomising weights from the head down."""

import pytest
import torch

from cxr_ray.explanation.randomisation import cascade, randomised_layers
from tests.explanation.networks import small_cnn

LAYERS = ["9", "4", "1", "0"]


def test_layers_are_taken_from_the_head_down() -> None:
    assert randomised_layers(small_cnn()) == LAYERS


@pytest.mark.parametrize(("stages", "shown"), [(None, LAYERS), (9, LAYERS), (3, ["9", "1", "0"]), (2, ["9", "0"])])
def test_a_stage_changes_all_layers_up_to_its_own_and_keeps_their_values(stages: int | None, shown: list[str]) -> None:
    network = small_cnn()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seen = []
    for name, changed in cascade(network, seed=1, stages=stages):
        seen.append(name)
        after = changed.state_dict()
        for layer in LAYERS:
            weight = f"{layer}.weight"
            same = torch.equal(after[weight], before[weight])
            assert same == (LAYERS.index(layer) > LAYERS.index(name) or layer == "1")  # a fresh norm has equal weights
            torch.testing.assert_close(after[weight].flatten().sort().values, before[weight].flatten().sort().values)
    assert seen == shown
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    again = [changed.state_dict()["0.weight"].clone() for _, changed in cascade(network, seed=1)]
    other = [changed.state_dict()["0.weight"].clone() for _, changed in cascade(network, seed=2)]
    torch.testing.assert_close(again[-1], after["0.weight"])
    assert not torch.equal(again[-1], other[-1])
