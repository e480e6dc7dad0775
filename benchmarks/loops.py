"""Images/s of the engine beside the loops that people write, from one folder of JPEGs; meant for a GPU, and runs on a processor.

    python benchmarks/loops.py [--models resnet18 resnet50 densenet121] [--sizes 224 320] [--images 2048] [--jpeg 320x390]

plain: fp32, contiguous, a DataLoader of four processes over the folder. tuned: bf16, channels_last, torch.compile, pinned pages, a
process a core. engine: the same pictures from a store, on `LocalContext`, in what `auto` picks, compiled as the tuned loop is.
resident: the engine's step on one batch that stays in memory. All take turns in one run; wanted of a GPU are engine / plain 3,
engine / tuned 1.5, engine / resident 0.97. `--jpeg` is the size of the pictures: CheXpert's small release has about 320x390.
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
from large_jpeg import picture
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from train import Resident, Timed, speeds
from trainings import quiet

from cxr_ray import config as cfg
from cxr_ray import datasets
from cxr_ray.on_ray.ingest import ingest
from cxr_ray.runs import Run
from cxr_ray.runtime.context import pick_device
from cxr_ray.runtime.precision import pick
from cxr_ray.training import setup, trainer

DIFFERENT = 64
"""Pictures that differ; the rest are their copies, since only time matters."""


class Folder(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What a tutorial writes: open, convert, resize, to a tensor."""

    def __init__(self, files: list[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.files[at]) as image:
            gray = np.asarray(image.convert("L").resize((self.size, self.size)), np.float32) / 255.0
        return (torch.from_numpy(gray)[None].repeat(3, 1, 1) - 0.449) / 0.226, torch.zeros(1)


def written(root: Path, images: int, height: int, width: int) -> list[Path]:
    """A folder of JPEGs of two classes."""
    different = [picture(height, width, seed) for seed in range(DIFFERENT)]
    files = []
    for number in range(images):
        file = root / ("finding", "normal")[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(different[number % DIFFERENT])
        files.append(file)
    return files


def network(name: str) -> torch.nn.Module:
    """torchvision's, with one output."""
    return torchvision.models.get_model(name, weights=None, num_classes=1)


def loop(files: list[Path], name: str, size: int, batch: int, device: torch.device, *, tuned: bool) -> float:
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
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        for images, truth in loader:
            there = images.to(device, non_blocking=tuned).to(memory_format=layout)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=tuned):
                logits = net(there)
            torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), truth.to(device)).backward()
            optimizer.step()
        if gpu:
            torch.cuda.synchronize(device)
        took = time.perf_counter() - began
    return len(loader) * batch / took


def ours(store: Path, output: Path, name: str, batch: int, device: torch.device, *, compiled: bool) -> float:
    """images/s of the engine's epochs but the first."""
    output.mkdir(parents=True)
    said = {
        "name": "engine",
        "output": str(output),
        "data": {"shards": str(store), "split": {"val": 0, "test": 0}},
        "model": {"name": name},
        "train": {"epochs": 3, "batch_size": batch, "compile": compiled, "checkpoint_minutes": None},
    }
    opened, plan, settled = setup.prepare(cfg.validate(said), log=quiet)
    run, context = Run(output / "engine"), Timed(device)
    run.path.mkdir()
    run.update(status="started")
    trainer.fit(settled, plan, opened, context, run)
    return statistics.median(speeds(context.lines))


def main() -> None:
    """A line for each network and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "densenet121"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 320])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--jpeg", default="320x390")
    parser.add_argument("--no-compile", action="store_true")
    asked = parser.parse_args()
    device, (height, width) = pick_device("auto"), (int(n) for n in asked.jpeg.split("x"))
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(
        f"{asked.images} JPEGs of {asked.jpeg}, batches of {asked.batch}, {on}, torch {torch.__version__}", flush=True
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = written(folder / "raw", asked.images, height, width)
        for size in asked.sizes:
            store = folder / f"shards{size}"
            ingest(
                datasets.load("image_folder", folder / "raw"),
                folder / "raw",
                store,
                source="image_folder",
                size=(size, size),
            )
            for name in asked.models:
                found = {"plain": loop(files, name, size, asked.batch, device, tuned=False)}
                if not asked.no_compile:
                    found["tuned"] = loop(files, name, size, asked.batch, device, tuned=True)
                compiled = not asked.no_compile
                found["engine"] = ours(store, folder / f"{name}-{size}", name, asked.batch, device, compiled=compiled)
                bare = Resident(
                    store, pick("auto", device), name=name, batch=asked.batch, device=device, compiled=compiled
                )
                found["resident"] = asked.batch / statistics.median([bare.step() for _ in range(14)][4:])
                against = ", ".join(
                    f"engine / {k} {found['engine'] / v:.2f}" for k, v in found.items() if k != "engine"
                )
                print(
                    f"{name} {size}: " + ", ".join(f"{k} {v:,.0f} images/s" for k, v in found.items()) + f"; {against}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
