"""Overhead of training: the trainer compared with one resident batch, two workers of one thread with one of two, and the time of a
checkpoint.

    python benchmarks/steps.py resident|workers|checkpoint [--images 256] [--epochs 10] [--compile]

Synthetic images (noise) in a temporary store. The sides alternate within one process (resident) or one run (workers), and each
ratio is of neighbours in time, since the machine's speed varies.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from train import Resident, Timed, config, noise_store, on_ray_train, speeds

from cxr_ray import config as cfg
from cxr_ray import models
from cxr_ray.on_ray import cluster
from cxr_ray.runs import Run
from cxr_ray.runtime.precision import pick
from cxr_ray.training import optim, setup, trainer
from cxr_ray.training.checkpoint import CheckpointWriter

CPU = torch.device("cpu")


class Alternating(Timed):
    """After each epoch, some steps on one batch that stays in memory."""

    def __init__(self, store: Path, steps: int, *, compiled: bool) -> None:
        super().__init__()
        self.resident, self.steps = Resident(store, pick("auto", CPU), compiled=compiled), steps
        self.blocks: list[float] = []

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Run one block of steps and record its images/s."""
        self.blocks.append(32 * self.steps / sum(self.resident.step() for _ in range(self.steps)))


def print_ratios(name: str, ratios: list[float]) -> None:
    """Print the median of ratios and their range."""
    print(f"{name}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, n {len(ratios)})")


def resident(folder: Path, store: Path, images: int, epochs: int, threads: int, compiled: bool) -> None:
    """Print each epoch's images/s divided by the mean of the blocks before and after it. The first two epochs are warm-up."""
    torch.set_num_threads(threads)
    context = Alternating(store, images // 32, compiled=compiled)
    settings = config(store, folder, "turns", precision="auto", epochs=epochs + 1, threads=threads)
    settings = cfg.validate(
        cfg.merge(settings.model_dump(), {"train": {"compile": compiled, "checkpoint_minutes": None}})
    )
    opened, plan, settings = setup.prepare(settings)
    (folder / "turns").mkdir()
    run = Run(folder / "turns")
    run.update(status="started")
    trainer.fit(settings, plan, opened, context, run)
    rates, blocks = speeds(context.lines), context.blocks  # of epochs 2 to the last; of epochs 0 to the last
    ratios = [rate / statistics.mean(blocks[k + 1 : k + 3]) for k, rate in enumerate(rates)]
    for rate, before, after in zip(rates, blocks[1:], blocks[2:], strict=False):
        print(f"trainer {rate:6.1f} images/s between resident {before:6.1f} and {after:6.1f}")
    print_ratios("trainer / resident batch", ratios)


def workers(folder: Path, store: Path, rounds: int) -> None:
    """Compare two Ray Train workers of one thread with one worker of two, alternating."""
    ratios = []
    with cluster.session("local", dashboard=True):
        for number in range(rounds):
            one = on_ray_train(store, folder, f"one{number}", precision="auto", epochs=4, threads=2)
            two = on_ray_train(store, folder, f"two{number}", precision="auto", epochs=4, threads=1, workers=2)
            ratios.append(statistics.median(two) / statistics.median(one))
            print(f"round {number}: 1 x 2 threads {one}, 2 x 1 thread {two}", flush=True)
    print_ratios("two workers of one thread / one of two", ratios)


def checkpoint(folder: Path, threads: int) -> None:
    """Measure how much a checkpoint of weights and moments adds to an evaluation of six seconds (a tenth of an epoch of a minute)
    during which it is written, alternating with that evaluation alone; and the seconds of a checkpoint without evaluation."""
    torch.set_num_threads(threads)
    for name in ("resnet18", "resnet50", "densenet121", "vit_b_16"):
        model = models.build(cfg.Model(name=name), outputs=14, image_size=(224, 224), mean=0.5, deviation=0.25)
        precision = pick("auto", CPU)
        model.to(memory_format=precision.layout).eval()
        optimizer = optim.build(model, cfg.Optim())
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        images = torch.zeros((16, 224, 224), dtype=torch.uint8)
        steps = 0

        def evaluate(
            count: int, model: torch.nn.Module = model, images: torch.Tensor = images, precision: Any = precision
        ) -> float:
            started = time.perf_counter()
            with torch.inference_mode(), precision.autocast(CPU):
                for _ in range(count):
                    model(images)
            return time.perf_counter() - started

        def start_checkpoint(
            step: int, name: str = name, model: Any = model, optimizer: Any = optimizer
        ) -> CheckpointWriter:
            tensors = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            return CheckpointWriter(folder / name, step, **tensors, state={"epoch": step})

        count = max(2, round(6 / (evaluate(4) / 4)))
        added, alone_s = [], []
        for _ in range(5):
            before = evaluate(count)
            steps += 1
            started = time.perf_counter()
            writing = start_checkpoint(steps)
            evaluate(count)
            writing.wait()
            both_s = time.perf_counter() - started
            added.append(both_s - (before + evaluate(count)) / 2)
            steps += 1
            started = time.perf_counter()
            start_checkpoint(steps).wait()
            alone_s.append(time.perf_counter() - started)
        during, alone = statistics.median(added), statistics.median(alone_s)
        print(
            f"{name:12} during evaluation {during:6.2f} s more ({min(added):.2f} to {max(added):.2f}), {during / 60:.2%} of a minute; alone "
            f"{alone:.2f} s, {alone / 60:.2%}",
            flush=True,
        )


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("resident", "workers", "checkpoint"))
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.what == "checkpoint":
            checkpoint(folder, args.threads)
            return
        store = noise_store(folder, args.images, 224)
        if args.what == "resident":
            resident(folder, store, args.images, args.epochs, args.threads, args.compile)
        else:
            workers(folder, store, args.rounds)


if __name__ == "__main__":
    main()
