"""What a training step costs beside its arithmetic: the engine against one resident batch, two workers of one thread against
one of two, and a checkpoint against a minute.

    python benchmarks/steps.py resident|workers|checkpoint [--images 256] [--epochs 10] [--compile]

Synthetic pictures (noise) in a temporary store. The sides take turns within one process (resident) or one run
(workers), and each ratio is of neighbours in time, since the machine's own speed swings.
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
from cxr_ray.training.checkpoint import Writing

CPU = torch.device("cpu")


class Turns(Timed):
    """After each epoch, some steps on one batch that stays in memory."""

    def __init__(self, store: Path, steps: int, *, compiled: bool) -> None:
        super().__init__()
        self.bare, self.steps = Resident(store, pick("auto", CPU), compiled=compiled), steps
        self.blocks: list[float] = []

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """One block of steps; its images/s."""
        self.blocks.append(32 * self.steps / sum(self.bare.step() for _ in range(self.steps)))


def told(name: str, ratios: list[float]) -> None:
    """The median of ratios and their range."""
    print(f"{name}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, n {len(ratios)})")


def resident(folder: Path, store: Path, images: int, epochs: int, threads: int, compiled: bool) -> None:
    """Each epoch's images/s over the mean of the blocks before and after it; the first two epochs warm up."""
    torch.set_num_threads(threads)
    context = Turns(store, images // 32, compiled=compiled)
    made = config(store, folder, "turns", precision="auto", epochs=epochs + 1, threads=threads)
    made = cfg.validate(cfg.merge(made.model_dump(), {"train": {"compile": compiled, "checkpoint_minutes": None}}))
    opened, plan, made = setup.prepare(made)
    (folder / "turns").mkdir()
    run = Run(folder / "turns")
    run.update(status="started")
    trainer.fit(made, plan, opened, context, run)
    mine, blocks = speeds(context.lines), context.blocks  # of epochs 2 to the last; of epochs 0 to the last
    ratios = [own / statistics.mean(blocks[k + 1 : k + 3]) for k, own in enumerate(mine)]
    for own, before, after in zip(mine, blocks[1:], blocks[2:], strict=False):
        print(f"engine {own:6.1f} images/s between resident {before:6.1f} and {after:6.1f}")
    told("engine / resident batch", ratios)


def workers(folder: Path, store: Path, rounds: int) -> None:
    """Two Ray Train workers of one thread beside one of two, in turns."""
    ratios = []
    with cluster.session("local", dashboard=True):
        for number in range(rounds):
            one = on_ray_train(store, folder, f"one{number}", precision="auto", epochs=4, threads=2)
            two = on_ray_train(store, folder, f"two{number}", precision="auto", epochs=4, threads=1, workers=2)
            ratios.append(statistics.median(two) / statistics.median(one))
            print(f"round {number}: 1 x 2 threads {one}, 2 x 1 thread {two}", flush=True)
    told("two workers of one thread / one of two", ratios)


def checkpoint(folder: Path, threads: int) -> None:
    """What a checkpoint of weights and moments adds to the judging of six seconds that it is written beside (a tenth of a minute's
    epoch), in turns with that judging alone; and its seconds by itself."""
    torch.set_num_threads(threads)
    for name in ("resnet18", "resnet50", "densenet121", "vit_b_16"):
        model = models.build(cfg.Model(name=name), outputs=14, image_size=(224, 224), mean=0.5, deviation=0.25)
        how = pick("auto", CPU)
        model.to(memory_format=how.layout).eval()
        optimizer = optim.build(model, cfg.Optim())
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        images = torch.zeros((16, 224, 224), dtype=torch.uint8)
        steps = 0

        def compute_metrics(
            count: int, model: torch.nn.Module = model, images: torch.Tensor = images, how: Any = how
        ) -> float:
            began = time.perf_counter()
            with torch.inference_mode(), how.autocast(CPU):
                for _ in range(count):
                    model(images)
            return time.perf_counter() - began

        def written(step: int, name: str = name, model: Any = model, optimizer: Any = optimizer) -> Writing:
            tensors = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            return Writing(folder / name, step, **tensors, state={"epoch": step})

        count = max(2, round(6 / (compute_metrics(4) / 4)))
        added, alone = [], []
        for _ in range(5):
            before = compute_metrics(count)
            steps += 1
            began = time.perf_counter()
            writing = written(steps)
            compute_metrics(count)
            writing.end()
            both = time.perf_counter() - began
            added.append(both - (before + compute_metrics(count)) / 2)
            steps += 1
            began = time.perf_counter()
            written(steps).end()
            alone.append(time.perf_counter() - began)
        beside, by_itself = statistics.median(added), statistics.median(alone)
        print(
            f"{name:12} beside judging {beside:6.2f} s more ({min(added):.2f} to {max(added):.2f}), {beside / 60:.2%} of a minute; by itself "
            f"{by_itself:.2f} s, {by_itself / 60:.2%}",
            flush=True,
        )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("resident", "workers", "checkpoint"))
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if asked.what == "checkpoint":
            checkpoint(folder, asked.threads)
            return
        store = noise_store(folder, asked.images, 224)
        if asked.what == "resident":
            resident(folder, store, asked.images, asked.epochs, asked.threads, asked.compile)
        else:
            workers(folder, store, asked.rounds)


if __name__ == "__main__":
    main()
