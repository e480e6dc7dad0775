"""Time of LRP with its certificate, compared with a training step's forward and backward pass.

    python benchmarks/explanation.py [--model resnet18] [--size 224] [--batch 8] [--rounds 15] [--threads 2] [--methods lrp_epsilon]

Random pixels, float32. The sides alternate within one process, and each ratio is of neighbours in time, since the machine's
speed varies. The base is one forward and one backward pass with the gradients of all weights.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from cxr_ray import config, models
from cxr_ray.explanation.methods import attribute

METHODS = ("lrp_epsilon", "lrp_alphabeta", "lrp_gamma", "lrp_composite")


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", default=",".join(METHODS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size = (args.size, args.size)
    network = models.build(
        config.Model(name=args.model), outputs=5, image_size=size, mean=0.5, deviation=0.25
    ).backbone.eval()
    x, targets = torch.randn((args.batch, 1, *size)), torch.zeros(args.batch, dtype=torch.int64)

    def train_pass() -> None:
        network(x).gather(1, targets[:, None]).sum().backward()
        network.zero_grad()

    def input_gradient() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(network(leaf).gather(1, targets[:, None]).sum(), leaf)

    sides: dict[str, Callable[[], object]] = {"forward and backward": train_pass, "input gradient": input_gradient}
    sides |= {name: (lambda name=name: attribute(name, network, x, targets)) for name in args.methods.split(",")}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds + 2):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    base = seconds["forward and backward"][2:]  # the first two rounds are warm-up
    for name, times in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(times[2:], base, strict=True)]
        print(
            f"{name}: {statistics.median(times[2:]):.3f} s, {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
