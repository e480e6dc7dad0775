"""Seconds of a saliency map, against captum's, with the two alternating in one process.

    python benchmarks/explanation_methods.py [--model resnet18] [--size 224] [--batch 8] [--rounds 15] [--threads 1]

Prints the median of each, and the median of the ratios of neighbouring rounds. captum is only in the test environment.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from captum.attr import Saliency
from torchvision.models import get_model

from cxr_ray.explanation.methods import attribute


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = get_model(args.model, weights=None).eval()
    images, targets = torch.randn(args.batch, 3, args.size, args.size), torch.arange(args.batch)
    theirs = Saliency(network)
    calls = {
        "cxr_ray": lambda: attribute("saliency", network, images, targets),
        "captum": lambda: theirs.attribute(images.requires_grad_(), target=targets).amax(1),
    }
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for at in range(args.rounds):
        for name in sorted(calls, reverse=bool(at % 2)):
            images = images.detach()
            times[name].append(seconds(calls[name]))
    ratios = [ours / captum for ours, captum in zip(times["cxr_ray"], times["captum"], strict=True)]
    medians = ", ".join(f"{name} {statistics.median(values):.3f} s" for name, values in times.items())
    print(
        f"{args.model}, {args.batch} images of {args.size} px: {medians}; ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    main()
