"""Cost of augmentation relative to a training step of resnet18, on the CPU or a GPU.

    python benchmarks/augment.py [--batch 32] [--side 224] [--rounds 9] [--gpu]

Steps and augmentations of the same batch alternate, so that other load on the machine affects both. The result is the ratio.
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
    "every operation on every image": config.Augment(probability=1.0, scale=0.1, flip=0.5, erase=1.0),
}


def main() -> None:
    """Print one line per case: milliseconds, and the share of a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gpu", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if args.gpu else "cpu")
    mode = precision.pick("auto", device)
    size = (args.side, args.side)
    model = models.build(config.Model(name="resnet18"), outputs=5, image_size=size, mean=0.5, deviation=0.25)
    model.to(device, memory_format=mode.layout).train()
    optimizer = optim.build(model, config.Optim())
    loss = losses.build(config.Loss(), task="multilabel")
    images = torch.randint(0, 256, (args.batch, *size), dtype=torch.uint8, device=device)
    truth = torch.randint(0, 2, (args.batch, 5), device=device).float()
    positions = np.arange(args.batch)

    def step(_round: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with mode.autocast(device):
            logits = model(images)
        (loss.total(logits.float(), truth) / truth.numel()).backward()
        optimizer.step()

    def case(hyperparameters: config.Augment) -> Callable[[int], Any]:
        return lambda number: augment(images, hyperparameters, seed=0, epoch=number, positions=positions)

    tasks = {"step": step, **{name: case(hyperparameters) for name, hyperparameters in CASES.items()}}
    seconds_by_name: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(-2, args.rounds):
        for name, task in tasks.items():
            started = time.perf_counter()
            task(number)
            if args.gpu:
                torch.cuda.synchronize()
            if number >= 0:  # the first two warm up
                seconds_by_name[name].append(time.perf_counter() - started)
    step_s = statistics.median(seconds_by_name["step"])
    print(
        f"{device.type}, {mode.name}, {torch.get_num_threads()} threads, {args.batch} images of {size[0]} x {size[1]}"
    )
    for name, seconds in seconds_by_name.items():
        median = statistics.median(seconds)
        print(
            f"{name}: {median * 1000:.1f} ms ({min(seconds) * 1000:.1f} to {max(seconds) * 1000:.1f}), {median / step_s:.4f} of a step"
        )


if __name__ == "__main__":
    main()
