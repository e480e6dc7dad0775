"""Images/s of training: Ray Train compared with the plain trainer, and bf16 with fp32. The overhead of a step: `steps.py`.

    python benchmarks/train.py [--images 512] [--rounds 3]

Synthetic images (noise) in a temporary store, without val and test, since only time matters. Compare ratios: all sides
alternate in one run on the same machine.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cxr_ray import config as cfg
from cxr_ray import models
from cxr_ray.data import store as stores
from cxr_ray.on_ray import cluster
from cxr_ray.on_ray import train as on_ray
from cxr_ray.runs import Run
from cxr_ray.runtime.context import LocalContext
from cxr_ray.runtime.precision import Precision, pick
from cxr_ray.training import optim, setup, trainer


class Timed(LocalContext):
    """Records the lines that the trainer logs."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__(device=device, quiet=True)
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


def speeds(lines: list[str]) -> list[float]:
    """images/s from each epoch's line, without the first epoch, which includes the warm-up."""
    epoch_lines = [line for line in lines if line.startswith("epoch") and "loss" in line and " images/s" in line]
    return [float(line.split(" images/s")[0].split()[-1].replace(",", "")) for line in epoch_lines][1:]


def noise_store(folder: Path, images: int, size: int) -> Path:
    """A store of `images` noise images of two classes."""
    rng = np.random.default_rng(0)
    rows = np.arange(images)
    pixels = rng.integers(0, 256, (images, size, size)).astype(np.uint8)
    return write_store(folder, rows, pixels, rng)


def write_store(folder: Path, rows: np.ndarray, pixels: np.ndarray, rng: np.random.Generator) -> Path:
    """Write `pixels` as PNGs of an image folder and ingest them."""
    from PIL import Image

    from cxr_ray import datasets
    from cxr_ray.on_ray.ingest import IngestSettings, ingest

    root = folder / "raw"
    for name in ("finding", "normal"):
        (root / name).mkdir(parents=True)
    for row, image in zip(rows, pixels, strict=True):
        Image.fromarray(image).save(root / ("finding" if rng.random() < 0.5 else "normal") / f"{row}.png")
    records = datasets.load("image_folder", root)
    ingest(
        records, root, folder / "shards", IngestSettings(source="image_folder", size=(pixels.shape[1], pixels.shape[2]))
    )
    return folder / "shards"


def config(
    store: Path, output: Path, name: str, *, precision: str, epochs: int, workers: int = 1, threads: int
) -> cfg.Config:
    """resnet18 at the store's size, without val and test."""
    return cfg.validate(
        {
            "name": name,
            "output": str(output),
            "data": {"shards": str(store), "split": {"val": 0, "test": 0}},
            "train": {
                "epochs": epochs,
                "batch_size": 32,
                "precision": precision,
                "threads": threads,
                "workers": workers,
                "resources_per_worker": {"CPU": threads},
            },
        }
    )


def plain(store: Path, output: Path, name: str, **hyperparameters: object) -> list[float]:
    """images/s of each epoch after the first, in this process."""
    context = Timed()
    resolved = config(store, output, name, **hyperparameters)  # type: ignore[arg-type]
    torch.set_num_threads(resolved.train.threads or 1)
    opened, plan, resolved = setup.prepare(resolved)
    (output / name).mkdir(parents=True)
    run = Run(output / name)
    run.update(status="started")
    trainer.fit(resolved, plan, opened, context, run)
    return speeds(context.lines)


def on_ray_train(store: Path, output: Path, name: str, **hyperparameters: object) -> list[float]:
    """images/s of each epoch after the first, on one Ray Train worker."""
    lines: list[str] = []
    on_ray.train(config(store, output, name, **hyperparameters), address="local", log=lines.append)  # type: ignore[arg-type]
    return speeds(lines)


class Resident:
    """A step on one batch that stays in memory, fused Adam: the upper limit."""

    def __init__(
        self,
        store: Path,
        mode: Precision,
        *,
        name: str = "resnet18",
        batch: int = 32,
        device: torch.device | None = None,
        compiled: bool = False,
    ) -> None:
        opened, self.device, self.mode = stores.open(store), device or torch.device("cpu"), mode
        self.model = models.build(cfg.Model(name=name), outputs=1, image_size=opened.size, mean=0.5, deviation=0.25)
        self.model.to(self.device, memory_format=mode.layout).train()
        self.net = torch.compile(self.model) if compiled else self.model
        self.optimizer = optim.build(self.model, cfg.Optim())
        self.images = torch.from_numpy(opened.images(opened.index["row"].to_numpy()[:batch])).to(self.device)
        self.truth = torch.zeros(batch, 1, device=self.device)

    def step(self) -> float:
        """Run one step; returns its seconds."""
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        with self.mode.autocast(self.device):
            logits = self.net(self.images)
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), self.truth).backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


def resident(store: Path, *, threads: int, steps: int, plain: bool = False) -> float:
    """images/s of a step in the precision that `auto` selects; with `plain`, in fp32 with torch's default memory layout."""
    torch.set_num_threads(threads)
    mode = pick("auto", torch.device("cpu"))
    if plain:
        mode = Precision("fp32", torch.float32, torch.contiguous_format)
    batch = Resident(store, mode)
    return 32 / statistics.median([batch.step() for _ in range(steps + 2)][2:])


def main() -> None:
    """Run the rounds and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary, cluster.session("local", dashboard=True):
        folder = Path(temporary)
        store = noise_store(folder, args.images, 224)
        print(f"{args.images} images of 224 px, {args.threads} threads, torch {torch.__version__}", flush=True)
        for number in range(args.rounds):
            some = {"threads": args.threads}
            rates.setdefault("trainer bf16", []).extend(
                plain(store, folder, f"p{number}", precision="auto", epochs=3, **some)
            )
            rates.setdefault("Ray Train bf16", []).extend(
                on_ray_train(store, folder, f"r{number}", precision="auto", epochs=3, **some)
            )
            rates.setdefault("resident batch bf16", []).append(resident(store, threads=args.threads, steps=12))
            rates.setdefault("resident batch plain fp32", []).append(
                resident(store, threads=args.threads, steps=6, plain=True)
            )
            rates.setdefault("trainer fp32", []).extend(
                plain(store, folder, f"f{number}", precision="fp32", epochs=2, **some)
            )
            print(f"round {number}: " + ", ".join(f"{k} {v[-1]:.1f}" for k, v in rates.items()), flush=True)
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in median.items():
        print(
            f"{name:22} {value:7.1f} images/s (min {min(rates[name]):.1f}, max {max(rates[name]):.1f}, n {len(rates[name])})"
        )
    print(f"Ray Train / trainer     {median['Ray Train bf16'] / median['trainer bf16']:.3f}")
    print(f"bf16 / fp32             {median['trainer bf16'] / median['trainer fp32']:.2f}")
    print(f"bf16 / plain fp32       {median['resident batch bf16'] / median['resident batch plain fp32']:.2f}")


if __name__ == "__main__":
    main()
