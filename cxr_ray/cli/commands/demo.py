"""`cxr-ray demo`: runs the other commands in sequence on synthetic X-rays."""

import time
from pathlib import Path

from cyclopts import App

from cxr_ray import config as configs
from cxr_ray.cli import next_steps

app = App(name="demo", help_format="markdown")


@app.default
def demo(*, out: Path = Path("demo"), patients: int = 500, seed: int = 0) -> None:
    """Run ingest, train and evaluate on synthetic X-rays, without data or network.

    The same steps as `cxr-ray phantom`, `ingest`, `train -c preset:demo` and `evaluate`, on a local Ray: Ray Data decodes the
    images, two Ray Train workers train. It takes less than three minutes on two cores and ends with a report.

    Parameters
    ----------
    out
        Folder for the images, the store and the run. Images and the store of an earlier demo are reused.
    patients
        Number of synthetic patients.
    seed
        Seed of the images and the training.
    """
    from cxr_ray.cli.commands import evaluate, ingest, phantom, train
    from cxr_ray.on_ray import cluster
    from cxr_ray.on_ray.resources import this_machine
    from cxr_ray.workflows import evaluations

    start = time.monotonic()
    config = configs.load("preset:demo", {"seed": seed, "output": str(out / "runs")})
    pictures = out / f"phantom-{patients}-{seed}"
    shards = out / f"shards-{patients}-{seed}"
    config = config.model_copy(update={"data": config.data.model_copy(update={"shards": str(shards)})})
    size = config.data.image_size or (96, 96)
    with cluster.session("local", num_cpus=int(this_machine(config.train.workers)["CPU"])):
        if not (shards / "manifest.json").exists():
            phantom.phantom(pictures, patients=patients, size=max(size), seed=seed)
            ingest.run("phantom", pictures, shards, {}, ingest.Ingest(size=f"{size[0]}x{size[1]}"))
        run = train.run(config)
        evaluate.print_evaluation(evaluations.evaluate(run.path))
    print(f"the demo took {time.monotonic() - start:.0f} s")
    print(f"report: {(run.path / 'report.html').resolve()}")
    next_steps.show("cxr-ray sources, then cxr-ray ingest SOURCE ROOT OUT --dry-run on your own data")
