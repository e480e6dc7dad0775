"""`cxr-ray demo`: the whole road on synthetic X-rays."""

import os
import time
from pathlib import Path

from cyclopts import App

from cxr_ray import config as configs

app = App(name="demo", help_format="markdown")


@app.default
def demo(*, out: Path = Path("demo"), patients: int = 500, seed: int = 0) -> None:
    """Synthetic X-rays through ingest, train and evaluate to a report, with no data and no network.

    The same steps as `cxr-ray phantom`, `ingest`, `train -c preset:demo` and `evaluate`, on one Ray of this machine:
    Ray Data decodes, two Ray Train workers train. Under three minutes on two cores.

    Parameters
    ----------
    out
        Folder for the pictures, the shards and the run. Pictures and shards of an earlier demo there are used again.
    patients
        How many synthetic patients.
    seed
        Keys the pictures and the training.
    """
    from cxr_ray.cli.commands import evaluate, ingest, phantom, train
    from cxr_ray.on_ray import cluster

    begun = time.monotonic()
    config = configs.load("preset:demo", {"seed": seed, "output": str(out / "runs")})
    pictures = out / f"phantom-{patients}-{seed}"
    shards = out / f"shards-{patients}-{seed}"
    config = config.model_copy(update={"data": config.data.model_copy(update={"shards": str(shards)})})
    size = config.data.image_size or (96, 96)
    cores = max(os.cpu_count() or 1, config.train.workers)  # two workers share the core of a machine that has one
    with cluster.session("local", num_cpus=cores):
        if not (shards / "manifest.json").exists():
            phantom.phantom(pictures, patients=patients, size=max(size), seed=seed)
            ingest.run("phantom", pictures, shards, {}, ingest.Ingest(size=f"{size[0]}x{size[1]}"))
        run = train.run(config)
        evaluate.compute_metrics(run.path)
    print(f"the demo took {time.monotonic() - begun:.0f} s")
    print(f"report: {(run.path / 'report.html').resolve()}")
    print("next: cxr-ray sources, then cxr-ray ingest SOURCE ROOT OUT --dry-run on data of your own")
