"""Forward passes on a CPU by batch size: milliseconds of CPU time an image, in bf16 with channels_last and one thread.

    python benchmarks/forward.py

With random weights; each figure is the smallest of three, after one that does not count.
"""

import time

import torch
import torchvision

from cxr_ray.runtime import memory

NETWORKS = (("densenet121", 224), ("resnet18", 224), ("resnet18", 512), ("vit_b_16", 224))
BATCHES = (4, 8, 16, 32, 64)


def milliseconds(network: torch.nn.Module, images: torch.Tensor) -> float:
    """CPU time of one image."""
    used = []
    for _ in range(4):
        started = time.process_time()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            network(images)
        used.append(time.process_time() - started)
    return 1e3 * min(used[1:]) / len(images)


def main() -> None:
    """Print a line for each network."""
    torch.set_num_threads(1)
    memory.keep_heap()
    for name, side in NETWORKS:
        network = torchvision.models.get_model(name, image_size=side) if name.startswith("vit") else torchvision.models.get_model(name)  # fmt: skip
        network = network.eval().to(memory_format=torch.channels_last)
        found = [
            milliseconds(network, torch.rand(count, 3, side, side).contiguous(memory_format=torch.channels_last))
            for count in BATCHES
        ]
        print(f"{name} at {side} px: " + ", ".join(f"{n}: {ms:.1f}" for n, ms in zip(BATCHES, found, strict=True)), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
