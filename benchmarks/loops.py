"""Images/s of training, compared with common hand-written loops, from one folder of JPEGs. For a GPU; also runs on a CPU.

    python benchmarks/loops.py [--models resnet18 resnet50 densenet121] [--sizes 224 320] [--images 2048] [--jpeg 320x390]

plain: fp32, contiguous, a DataLoader with four processes over the folder. tuned: bf16, channels_last, torch.compile, pinned
memory, one process per core. trainer: the same images from a store, on `LocalContext`, in the precision that `auto` selects,
compiled like the tuned loop. resident: the training step on one batch that stays in memory. All alternate in one run. Targets
for a GPU: trainer / plain 3, trainer / tuned 1.5, trainer / resident 0.97. `--jpeg` is the size of the images: CheXpert's small
release has about 320x390.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from large_jpeg import random_jpeg
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from train import Resident, Timed, speeds
from trainings import quiet

from cxr_ray import config as cfg
from cxr_ray import datasets
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from cxr_ray.runs import Run
from cxr_ray.runtime.context import pick_device
from cxr_ray.runtime.precision import pick
from cxr_ray.training import setup, trainer

DIFFERENT = 64
"""Different images; the rest are copies, since only time matters."""


class Folder(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The dataset of a typical tutorial: open, convert, resize, to a tensor."""

    def __init__(self, files: list[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.files[at]) as image:
            gray = np.asarray(image.convert("L").resize((self.size, self.size)), np.float32) / 255.0
        return (torch.from_numpy(gray)[None].repeat(3, 1, 1) - 0.449) / 0.226, torch.zeros(1)


def write_jpegs(root: Path, images: int, height: int, width: int) -> list[Path]:
    """Write a folder of JPEGs of two classes."""
    different = [random_jpeg(height, width, seed) for seed in range(DIFFERENT)]
    files = []
    for number in range(images):
        file = root / ("finding", "normal")[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(different[number % DIFFERENT])
        files.append(file)
    return files


def network(name: str) -> torch.nn.Module:
    """A torchvision model with one output."""
    return torchvision.models.get_model(name, weights=None, num_classes=1)


def hand_written_loop(
    files: list[Path], name: str, size: int, batch: int, device: torch.device, *, tuned: bool
) -> float:
    """images/s of the second epoch."""
    gpu = device.type == "cuda"
    layout = torch.channels_last if tuned else torch.contiguous_format
    model = network(name).to(device).to(memory_format=layout).train()
    net: Any = torch.compile(model) if tuned else model
    optimizer = torch.optim.Adam(model.parameters(), fused=tuned)
    processes = (os.cpu_count() or 1) if tuned else min(4, os.cpu_count() or 1)
    loader = DataLoader(
        Folder(files, size), batch, shuffle=True, num_workers=processes, pin_memory=tuned and gpu, persistent_workers=True,
        drop_last=True,
    )  # fmt: skip
    epoch_s = 0.0
    for _ in range(2):
        started = time.perf_counter()
        for images, truth in loader:
            batch_images = images.to(device, non_blocking=tuned).to(memory_format=layout)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=tuned):
                logits = net(batch_images)
            torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), truth.to(device)).backward()
            optimizer.step()
        if gpu:
            torch.cuda.synchronize(device)
        epoch_s = time.perf_counter() - started
    return len(loader) * batch / epoch_s


def trainer_rate(store: Path, output: Path, name: str, batch: int, device: torch.device, *, compiled: bool) -> float:
    """images/s of the trainer's epochs after the first."""
    output.mkdir(parents=True)
    values = {
        "name": "trainer",
        "output": str(output),
        "data": {"shards": str(store), "split": {"val": 0, "test": 0}},
        "model": {"name": name},
        "train": {"epochs": 3, "batch_size": batch, "compile": compiled, "checkpoint_minutes": None},
    }
    opened, plan, config = setup.prepare(cfg.validate(values), log=quiet)
    run, context = Run(output / "trainer"), Timed(device)
    run.path.mkdir()
    run.update(status="started")
    trainer.fit(config, plan, opened, context, run)
    return statistics.median(speeds(context.lines))


def main() -> None:
    """Print one line per network and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "densenet121"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 320])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--jpeg", default="320x390")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    device, (height, width) = pick_device("auto"), (int(n) for n in args.jpeg.split("x"))
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(
        f"{args.images} JPEGs of {args.jpeg}, batches of {args.batch}, {hardware}, torch {torch.__version__}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = write_jpegs(folder / "raw", args.images, height, width)
        for size in args.sizes:
            store = folder / f"shards{size}"
            ingest(
                datasets.load("image_folder", folder / "raw"),
                folder / "raw",
                store,
                IngestSettings(source="image_folder", size=(size, size)),
            )
            for name in args.models:
                rates = {"plain": hand_written_loop(files, name, size, args.batch, device, tuned=False)}
                if not args.no_compile:
                    rates["tuned"] = hand_written_loop(files, name, size, args.batch, device, tuned=True)
                compiled = not args.no_compile
                rates["trainer"] = trainer_rate(
                    store, folder / f"{name}-{size}", name, args.batch, device, compiled=compiled
                )
                resident = Resident(
                    store, pick("auto", device), name=name, batch=args.batch, device=device, compiled=compiled
                )
                rates["resident"] = args.batch / statistics.median([resident.step() for _ in range(14)][4:])
                ratios = ", ".join(
                    f"trainer / {k} {rates['trainer'] / v:.2f}" for k, v in rates.items() if k != "trainer"
                )
                print(
                    f"{name} {size}: " + ", ".join(f"{k} {v:,.0f} images/s" for k, v in rates.items()) + f"; {ratios}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
