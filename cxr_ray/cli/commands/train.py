"""`cxr-ray train`: a config file with flags laid over it, handed to the training."""

import shlex
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from cxr_ray import config as configs
from cxr_ray.cli import flags
from cxr_ray.errors import Finished, UserError

Words = Annotated[str, Parameter(name="knob", show=False, allow_leading_hyphen=True)]
FileFlag = Annotated[str | None, Parameter(name=["--config", "-c"])]

app = App(
    name="train",
    usage="Usage: cxr-ray train [-c FILE|preset:NAME] [--KNOB VALUE ...] [--address ADDRESS] | --resume RUN",
    help_format="markdown",
    help_epilogue="Knobs, each a flag over the file:\n\n" + "\n".join(flags.help_lines(configs.Config)),
)


def read_config(file: str | None, words: tuple[str, ...]) -> configs.Config:
    """The config of a file with the knobs among `words` laid over it. Raises `UserError` naming the closest knob."""
    rest, values = flags.parse(words, configs.Config, also=["--config", "--address", "--resume", "--help"])
    if rest:
        raise UserError(
            f"unexpected {shlex.join(rest)}; a knob is given as --data.shards FOLDER, a config file as -c FILE"
        )
    return configs.load(file, values)


def read_run(run: str, file: str | None, words: tuple[str, ...]) -> configs.Config:
    """The config of the run in the folder `run`, to go on with. Raises `UserError` where knobs are given besides."""
    from cxr_ray import runs

    if file is not None or words:
        given = "-c" if file is not None else words[0]
        raise UserError(
            f"--resume goes on with the run's own config, so {given} cannot change it; for another config give a new --name"
        )
    found = runs.load(run)
    return found.config.model_copy(update={"name": found.path.name, "output": str(found.path.parent)})


@app.default
def train(*words: Words, config: FileFlag = None, address: str | None = None, resume: str | None = None) -> None:
    """Train a model on a store, in this process or on Ray.

    With one worker, no --address and no RAY_ADDRESS (which every Ray job sets) the training runs in this process; else on the
    cluster that these name, or on a Ray of its own. Every knob of the config is a flag: --optim.lr 1e-4, --data.split.val official,
    --data.uncertain.Edema ones, --data.image_size 224 224. Flags override the file; lists take several words.

    Parameters
    ----------
    config
        YAML file of knobs, or preset:NAME for one that comes with cxr-ray.
    address
        Ray cluster to train on, such as auto; without it, the one that RAY_ADDRESS names (every Ray job sets it), else this machine.
    resume
        Folder of a run that was stopped or killed: goes on after its last checkpoint, with its own config.
    """
    run(read_config(config, words) if resume is None else read_run(resume, config, words), address=address)


def run(config: configs.Config, *, address: str | None = None) -> Any:
    """Train as `config` says, tell where the run is, and return it; of several seeds the last one's."""
    from cxr_ray.on_ray import train as on_ray

    if config.seeds > 1:
        return _run_seeds(config, address)
    made = on_ray.train(config, address=address)
    print(f"run: {made.path.resolve()}")
    print(f"next: cxr-ray evaluate {shlex.quote(str(made.path))}")
    return made


def _run_seeds(config: configs.Config, address: str | None) -> Any:
    """A run for each seed; the same command again goes on with what is not finished."""
    from cxr_ray import runs
    from cxr_ray.on_ray import train as on_ray

    name = config.name or runs.default_name(config)
    made = []
    for seed in range(config.seed, config.seed + config.seeds):
        one = config.model_copy(update={"seed": seed, "seeds": 1, "name": f"{name}-seed-{seed}"})
        try:
            run = on_ray.train(one, address=address)
        except Finished:
            run = runs.load(Path(one.output) / str(one.name))
        print(f"run: {run.path.resolve()}")
        made.append(run)
    print(f"next: cxr-ray compare {' '.join(shlex.quote(str(run.path)) for run in made)}")
    return made[-1]
