"""What augmentation costs beside a training step of resnet18, on the CPU or a GPU, both in one run.

    python benchmarks/augment.py [--batch 32] [--side 224] [--rounds 9] [--gpu]

Steps and augmentations of the same batch take turns, so that other work on the machine falls on both; the figure is the ratio.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cxr_ray import config, losses, models
from cxr_ray.runtime import precision
from cxr_ray.training import optim
from cxr_ray.training.augment import augment

CASES = {
    "defaults (probability 0.2)": config.Augment(),
    "probability 0.4": config.Augment(probability=0.4),
    "every change of every image": config.Augment(probability=1.0, scale=0.1, flip=0.5, erase=1.0),
}


def main() -> None:
    """Print a line a case: milliseconds, and the share of a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda" if options.gpu else "cpu")
    how = precision.pick("auto", device)
    size = (options.side, options.side)
    model = models.build(config.Model(name="resnet18"), outputs=5, image_size=size, mean=0.5, deviation=0.25)
    model.to(device, memory_format=how.layout).train()
    optimizer = optim.build(model, config.Optim())
    loss = losses.build(config.Loss(), task="multilabel")
    images = torch.randint(0, 256, (options.batch, *size), dtype=torch.uint8, device=device)
    truth = torch.randint(0, 2, (options.batch, 5), device=device).float()
    positions = np.arange(options.batch)

    def step(_round: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with how.autocast(device):
            logits = model(images)
        (loss.total(logits.float(), truth) / truth.numel()).backward()
        optimizer.step()

    def case(hyperparameters: config.Augment) -> Callable[[int], Any]:
        return lambda turn: augment(images, hyperparameters, seed=0, epoch=turn, positions=positions)

    works = {"step": step, **{name: case(hyperparameters) for name, hyperparameters in CASES.items()}}
    took: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-2, options.rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work(turn)
            if options.gpu:
                torch.cuda.synchronize()
            if turn >= 0:  # the first two warm up
                took[name].append(time.perf_counter() - started)
    whole = statistics.median(took["step"])
    print(
        f"{device.type}, {how.name}, {torch.get_num_threads()} threads, {options.batch} images of {size[0]} x {size[1]}"
    )
    for name, held in took.items():
        median = statistics.median(held)
        print(
            f"{name}: {median * 1000:.1f} ms ({min(held) * 1000:.1f} to {max(held) * 1000:.1f}), {median / whole:.4f} of a step"
        )


if __name__ == "__main__":
    main()
