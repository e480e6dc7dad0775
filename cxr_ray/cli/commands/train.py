"""`cxr-ray train`: reads the config from a file and flags, and starts the training."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from cxr_ray import config as configs
from cxr_ray.cli import config_flags, next_steps
from cxr_ray.cli.parameters import FileFlag, HelpAll, SettingWord, Wait
from cxr_ray.errors import Finished, UserError

app = App(
    name="train",
    usage="Usage: cxr-ray train [-c FILE|preset:NAME] [--store STORE] [--SETTING VALUE ...] [--address ADDRESS] | --from RUN [...] | --resume RUN",
    help_format="markdown",
    help_epilogue=config_flags.epilogue(config_flags.COMMON, "train"),
)


def read_config(file: str | None, words: tuple[str, ...], *, base: str | None = None) -> configs.Config:
    """The config of a file, or of the run in the folder `base`, overridden by the flags in `words`.

    Raises `UserError` that names the closest setting."""
    also = ["--config", "--address", "--wait", "--from", "--resume", "--help", "--help-all"]
    if base is not None:
        if file is not None:
            raise UserError("-c and --from both give the settings to start from; give one of them")
        configs.read_run(base)  # an error here names --from's folder
        file = base
    return config_flags.load(
        file, words, also=also, usage="write a setting as --store FOLDER, a config file as -c FILE"
    )


def read_run(run: str, file: str | None, words: tuple[str, ...]) -> configs.Config:
    """The config of the run in the folder `run`, to resume it, with its plugins named in `words` by --plugins.

    Raises `UserError` if a file or other settings are given too."""
    from cxr_ray import runs

    rest, values = config_flags.parse(words, also=["--address", "--wait"])
    plugins = values.pop("plugins", [])
    if file is not None or rest or values:
        given = "-c" if file is not None else [*rest, *configs.dotted_names(values)][0]
        raise UserError(
            f"--resume uses the run's own config, which {given} cannot change; for another config give a new --name"
        )
    found = runs.load(run)
    found.load_plugins(plugins)
    return found.config.model_copy(update={"name": found.path.name, "output": str(found.path.parent)})


@app.default
def train(
    *words: SettingWord,
    config: FileFlag = None,
    address: str | None = None,
    wait: Wait = None,
    base: Annotated[str | None, Parameter(name="--from")] = None,
    resume: str | None = None,
    help_all: HelpAll = False,
) -> None:
    """Train a model on a store, in this process or on Ray.

    With one worker and neither --address nor RAY_ADDRESS (set in every Ray job), the training runs in this process. Otherwise it
    runs on that cluster, or on a local Ray that it starts. Every setting is a flag: --data.split.val official,
    --data.uncertain.Edema ones, --optim.lr 1e-4. The commonest have a short flag: --lr 1e-4, --image-size 224. Flags override the
    file; lists take several words.

    Parameters
    ----------
    config
        YAML file of settings, or preset:NAME for one that comes with cxr-ray.
    address
        Address of the Ray cluster, such as auto. Default: RAY_ADDRESS (set in every Ray job), else this machine.
    wait
        Minutes to wait while the cluster has no room, before the command gives up. Default: without an end in a Ray job, else 10.
    base
        Folder of a run, or of a sweep's trial or winner: a new run with its settings, which other flags override, next to it or to
        the sweep: --from runs/SWEEP/best --epochs 20 --name longer.
    resume
        Folder of a run that was stopped or killed: continue from its last checkpoint, with its own config. Plugins that it was trained
        with are named again: --plugins MODULE.
    help_all
        Show every setting, by section.
    """
    if help_all:
        config_flags.print_all()
        return
    if resume is not None and base is not None:
        raise UserError("--resume continues a run, --from starts a new one; give one of them")
    settings = read_config(config, words, base=base) if resume is None else read_run(resume, config, words)
    run(settings, address=address, wait=wait)


def run(config: configs.Config, *, address: str | None = None, wait: float | None = None) -> Any:
    """Train, print the path of the run, and return it; with several seeds, return the last run."""
    from cxr_ray.on_ray import train as on_ray

    if config.seeds > 1:
        return _run_seeds(config, address, wait)
    run = on_ray.train(config, address=address, wait=wait)
    print(f"run: {run.path.resolve()}")
    next_steps.show(f"{next_steps.after_training(run)}")
    return run


def _run_seeds(config: configs.Config, address: str | None, wait: float | None) -> Any:
    """Train one run per seed. Run again, the same command continues with the runs that are not finished."""
    from cxr_ray import runs
    from cxr_ray.on_ray import train as on_ray

    name = config.name or runs.default_name(config)
    trained = []
    for seed in range(config.seed, config.seed + config.seeds):
        one = config.model_copy(update={"seed": seed, "seeds": 1, "name": f"{name}-seed-{seed}"})
        try:
            run = on_ray.train(one, address=address, wait=wait)
        except Finished:
            run = runs.load(Path(one.output) / str(one.name))
        print(f"run: {run.path.resolve()}")
        trained.append(run)
    next_steps.show(f"{next_steps.of_seeds(trained)}")
    return trained[-1]
