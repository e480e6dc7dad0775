"""Weights randomised layer by layer from the head down: a map that barely changes does not show what the model learned."""

import copy
from collections.abc import Iterator

import torch
from torch import nn


def cascade(network: nn.Module, *, seed: int = 0, stages: int | None = None) -> Iterator[tuple[str, nn.Module]]:
    """(the last layer that was randomised, the network) for each stage: first the head alone, at last all layers (Adebayo et al. 2018,
    arXiv:1810.03292).

    Layers are taken in the reverse order of the network's own list. `stages`: at most so many, evenly spaced, the head alone and
    all layers among them. The values of each weight tensor are shuffled, and of running statistics too: what was learned is lost, while the
    scale of activations stays. The same copy of the network is changed further and further; the given one stays as it is."""
    layers = randomised_layers(network)
    last = len(layers) - 1
    shown = (
        set(range(last + 1))
        if stages is None or stages > last
        else {round(at * last / max(stages - 1, 1)) for at in range(stages)}
    )
    changed = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    for at, name in enumerate(layers):
        _shuffle(changed.get_submodule(name), generator)
        if at in shown:
            yield name, changed


def randomised_layers(network: nn.Module) -> list[str]:
    """Modules with weights of their own, the last first."""
    return [name for name, module in reversed(list(network.named_modules())) if list(module.parameters(recurse=False))]


def _shuffle(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
                tensor.copy_(tensor.flatten()[order].reshape(tensor.shape))
