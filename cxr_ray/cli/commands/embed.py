"""`cxr-ray embed`: writes the features of a store's images. Computing them is in workflows.embed."""

import shlex
from pathlib import Path

from cyclopts import App

from cxr_ray.cli import next_steps
from cxr_ray.cli.parameters import Words

app = App(
    name="embed",
    help_format="markdown",
    help_epilogue="""Examples:

    cxr-ray embed runs/nih shards features                    # by a trained run
    cxr-ray embed mobilenet_v2 shards features --weights imagenet
    cxr-ray train --store shards --data.features features --model linear --lr 0.01 --epochs 20
    cxr-ray describe shards --features features --neighbours 17""",
)


@app.default
def embed(
    model: str,
    shards: str,
    out: Path,
    /,
    *,
    weights: str | None = None,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 64,
    gpu: bool | None = None,
    plugins: Words = None,
) -> None:
    """Write the pooled features of a store's images, to fit heads on them in seconds and to find similar images.

    Features are what the last layer of a network sees. A head on them is a run like others: the same parts, metrics, report and
    sweeps; it predicts images too, by the network and the head. An interrupted embedding goes on when the same command is run again.

    Parameters
    ----------
    model
        Folder of a run, a model file (.safetensors), or the name of a network of `cxr-ray models`, with --weights.
    shards
        Folder or URL of the store.
    out
        Folder for the features.
    weights
        Of a network by name: imagenet, a file (.pth, .safetensors), or the folder of a run.
    image_size
        Of a network by name: height and width in pixels of its input; default: the store's size.
    batch_size
        Images at once.
    gpu
        Whether to use a GPU; default: if there is one.
    plugins
        Modules that register the network; those that the run was trained with must be named again.
    """
    from cxr_ray.workflows.embed import embed as run

    found = run(
        model,
        shards,
        out,
        weights=weights,
        image_size=image_size,
        batch_size=batch_size,
        gpu="auto" if gpu is None else gpu,
        plugins=tuple(plugins or ()),
    )
    print(f"features: {found.path} ({len(found):,} rows, {found.manifest.features:,} features each)")
    where = shlex.quote(str(out))
    next_steps.show(f"{next_steps.train_on(shards)} --data.features {where} --model linear --lr 0.01")
