"""`cxr-ray tune`: reads the config, shows the trials while they run, and prints the winner and how much better it is.

Running the trials is in on_ray.tune, the selection of the winner in workflows.select."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from cxr_ray import config as configs
from cxr_ray.cli import config_flags, next_steps
from cxr_ray.cli.parameters import FileFlag, HelpAll, SettingWord, Wait
from cxr_ray.cli.terminal import console, fit
from cxr_ray.errors import UserError
from cxr_ray.registry import load_named_plugins
from cxr_ray.runtime.progress import Rate, text

app = App(
    name="tune",
    usage="Usage: cxr-ray tune -c FILE|preset:NAME [--SETTING VALUE ...] [--address ADDRESS] | --resume SWEEP",
    help_format="markdown",
    help_epilogue=config_flags.epilogue(config_flags.COMMON_TUNE, "tune"),
)


@app.default
def tune(
    *words: SettingWord,
    config: FileFlag = None,
    address: str | None = None,
    wait: Wait = None,
    resume: str | None = None,
    retry_failed: Annotated[bool, Parameter(negative="")] = False,
    refit: Literal["none", "best", "folds"] = "none",
    help_all: HelpAll = False,
) -> None:
    """Search hyperparameters: many trials on one store, evaluated label by label on the same rows.

    The `tune:` section of the file defines the search space, the search and the objective. The rest of the file is the base
    configuration of all trials. They run on a local Ray, or on the cluster at --address or RAY_ADDRESS.

    Parameters
    ----------
    config
        YAML file of settings with a tune section, or preset:NAME for one that comes with cxr-ray.
    address
        Address of the Ray cluster, such as auto. Default: RAY_ADDRESS (set in every Ray job), else this machine.
    wait
        Minutes to wait while the cluster has no room, before the command gives up. Default: without an end in a Ray job, else 10.
    resume
        Folder of a sweep that was stopped or killed: run the remaining trials and repeat none that ended. Settings of the tune
        section that do not change a trial may be given too, such as --tune.trials 32 or --tune.max_concurrent 4. With --refit, other
        settings are those of the refit: --resume runs/SWEEP --refit best --epochs 20 trains the winner longer.
    retry_failed
        With --resume: also continue failed trials from their last checkpoints, once the cause of the failure is fixed.
    refit
        Train again with the winner's hyperparameters on all rows (without data.limit) after the sweep. best: one run, `refit` in the
        sweep's folder. folds: one run per fold by patient (tune.folds, else 5), `folds/fold-K`, and their ensemble,
        `folds/ensemble`, evaluated on test. Finished runs are not repeated.
    help_all
        Show every setting by section, those of the sweep first.
    """
    if help_all:
        config_flags.print_all(first="tune")
        return
    if retry_failed and resume is None:
        raise UserError("--retry-failed needs --resume SWEEP; give both, or neither")
    changes: dict[str, Any] = {}
    if resume is None:
        resolved = read_config(config, words)
    else:
        resolved, changes = read_sweep(resume, config, words, refit=refit != "none")
    run(resolved, address=address, wait=wait, retry_failed=retry_failed, refit=refit, changes=changes)


def read_config(file: str | None, words: tuple[str, ...]) -> configs.Config:
    """The config of a file, overridden by the flags in `words`. Raises `UserError` that names the closest setting."""
    also = ["--config", "--address", "--wait", "--resume", "--retry-failed", "--refit", "--help", "--help-all"]
    return config_flags.load(file, words, also=also, usage="a sweep is defined by a file: cxr-ray tune -c FILE")


def read_sweep(
    folder: str, file: str | None, words: tuple[str, ...], *, refit: bool = False
) -> tuple[configs.Config, dict[str, Any]]:
    """The config of the sweep in `folder`, to resume it, and, for a `refit`, the settings in `words` that are not of the tune section.

    Raises `UserError` if a file is given too."""
    from cxr_ray.tuning import sweep as sweeps

    if file is not None:
        raise UserError(
            "--resume uses the sweep's own config, which -c cannot change; for another config give a new --name"
        )
    found = sweeps.load(folder)
    rest, values = config_flags.parse(words, also=["--address", "--wait", "--retry-failed", "--refit", "--help"])
    if rest:
        raise UserError(
            f"unexpected {shlex.join(rest)} after --resume SWEEP; only settings of the tune section can be added"
        )
    load_named_plugins(values.pop("plugins", []), found.config.plugins, owner=f"the sweep {found.path.name}")
    changes = {name: values.pop(name) for name in list(values) if name != "tune"} if refit else {}
    for name in ("name", "output"):
        if name in changes:
            raise UserError(
                f"--{name}: a refit lies in its sweep; for a run elsewhere: cxr-ray train --from {folder}/best --name NAME"
            )
    config = configs.validate(configs.merge(found.config.model_dump(), values), where="the flags")
    return config.model_copy(update={"name": found.path.name, "output": str(found.path.parent)}), changes


def run(
    config: configs.Config,
    *,
    address: str | None = None,
    wait: float | None = None,
    retry_failed: bool = False,
    refit: str = "none",
    changes: Mapping[str, Any] | None = None,
) -> Any:
    """Run the sweep, print its results, and return it. `changes` are settings of the refit that differ from the winner's."""
    from cxr_ray import runs
    from cxr_ray.workflows import select
    from cxr_ray.workflows import tune as workflow

    with show_progress() as (log, draw):
        sweep = workflow.tune(config, address=address, wait=wait, retry_failed=retry_failed, log=log, draw=draw)
    print_trials(sweep)
    print_comparison(sweep, sweep.info["worth"])
    best = sweep.path / "best"
    if refit == "best":
        best = _trained(sweep, select.refit_config(sweep, changes), changes, address, wait).path
        print(f"refit: {best}")
    if refit == "folds" and sweep.config.tune.folds and sweep.config.data.limit is None:
        print(f"the winner was already trained on {sweep.config.tune.folds} folds: best is their ensemble")
    elif refit == "folds":
        best = sweep.path / "folds" / "ensemble"
        trained = [_trained(sweep, one, changes, address, wait) for one in select.fold_configs(sweep, changes)]
        print_folds(select.combine_folds(sweep, trained), sweep)
        print(f"folds: {best}")
        workflow.try_write_page(sweep)
    page = sweep.path / "sweep.html"
    if page.exists():
        print(f"page: {page}")
    print(f"sweep: {sweep.path}")
    next_steps.show(f"open the page in a browser, or: {next_steps.after_training(runs.load(best))}")
    return sweep


def _trained(
    sweep: Any, config: configs.Config, changes: Mapping[str, Any] | None, address: str | None, wait: float | None
) -> Any:
    """A run with the winner's hyperparameters: trained now, or loaded if it is finished."""
    from cxr_ray.on_ray import train as training
    from cxr_ray.workflows import select

    finished = select.finished_run(sweep, config, changes)
    if finished is not None:
        print(f"{finished.path} is already finished")
        return finished
    return training.train(config, address=address, wait=wait)


@contextmanager
def show_progress() -> Iterator[tuple[Any, Any]]:
    """Functions (log a line, draw a sweep): a live table of the trials on a terminal, else plain lines."""
    if not sys.stdout.isatty():
        yield (lambda line: print(line, flush=True)), None
        return
    from rich.live import Live

    def log(line: str) -> None:  # without markup: a path or an error may contain brackets
        live.console.print(line, markup=False, highlight=False, emoji=False)

    rate = Rate()
    with Live(console=console(), refresh_per_second=2) as live:
        yield log, (lambda sweep: live.update(trial_table(sweep, rate)))


def trial_table(sweep: Any, rate: Rate | None = None) -> Any:
    """A table of up to 30 trials, the best first: status, epochs, hyperparameters, objectives, seconds. The title has the time left by
    `rate`, which counts the trials that ended.

    With several objectives, a * marks the Pareto front (`ranking.pareto_front`)."""
    from cxr_ray.tuning import ranking
    from cxr_ray.tuning.trial import ENDED

    info, config = sweep.info, sweep.config
    trials = sweep.trial_records
    ended = sum(t.status in ENDED for t in trials)
    planned = max(int(info.get("planned") or 0), len(trials))
    base = config.model_dump()
    several = len(info["metrics"]) > 1
    front = ranking.pareto_front(sweep.ranked(), config.tune.modes) if several else set()
    sign, rows = configs.sign_of(config.tune.modes[0]), []
    for t in sorted(trials, key=lambda t: -sign * t.values.get(config.tune.metrics[0], -sign * 1e9))[:30]:
        epochs = t.hyperparameters.get("train.epochs", config.train.epochs)
        cells = [t.name + (" (base)" if t.base else ""), t.status, f"{t.epochs}/{epochs}",
                 *(_short(t.hyperparameters.get(k, configs.value_at(base, k))) for k in info["knobs"]),
                 *(_short(t.values.get(m, "-")) for m in info["metrics"]), *(["*" if t.number in front else ""] if several else []),
                 f"{t.seconds:.0f}"]  # fmt: skip
        rows.append(cells)
    columns = [
        "trial",
        "status",
        "epoch",
        *info["knobs"],
        *info["metrics"],
        *(["pareto"] if several else []),
        "seconds",
    ]
    title = text(sweep.path.name, ended, planned, "trials", rate=rate(ended) if rate else 0.0)
    return fit(columns, rows, title=title, first_out=["seconds", "status"])[1]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_trials(sweep: Any) -> None:
    """Print the final table of the trials, and the reasons of failed trials."""
    console().print(trial_table(sweep))
    for t in sweep.trial_records:
        if t.error:
            print(f"failed: trial {t.name}: {t.error}")


def print_comparison(sweep: Any, comparison: dict[str, Any]) -> None:
    """Print the winner, its metrics on test, and its differences to other trials with their significance."""
    from cxr_ray.tuning import ranking

    best = sweep.ranked()[0]
    hyperparameters = ", ".join(f"{k} {_short(v)}" for k, v in best.hyperparameters.items()) or "the base configuration"
    print(f"winner: trial {', '.join(t.name for t in best.trials)}: {hyperparameters}")
    for name, value, deviation in zip(sweep.info["metrics"], best.values, best.deviation, strict=True):
        spread = f" (deviation between folds {deviation:.4f})" if deviation == deviation else ""
        print(f"  {name} {value:.4f}{spread}")
    order = ranking.headline_metrics(sweep.info["metrics"], sweep.info["labels"])
    for what, test in (
        ("on test", comparison.get("test")),
        ("the ensemble on test", (comparison.get("ensemble") or {}).get("test")),
    ):
        if test:
            print(f"  {what}: {_on_test(test, order)}")
    for row in comparison["against"]:
        other = ranking.compared_to(row["what"])
        print(f"  difference to {other} ({row['trial']}) on {row['part']}: {format_difference(row)}")
    if comparison.get("note"):
        print(f"  note: {comparison['note']}")


def print_folds(found: Mapping[str, Any], sweep: Any) -> None:
    """Print the objectives of the winner's hyperparameters over folds, and the metrics of their ensemble on test."""
    from cxr_ray.tuning import ranking

    print(f"the winner's hyperparameters on {len(found['runs'])} folds:")
    for name, one in found["objectives"].items():
        print(f"  {name} {one['mean']:.4f} (deviation between folds {one['deviation']:.4f})")
    if found["test"]:
        order = ranking.headline_metrics(sweep.info["metrics"], sweep.info["labels"])
        print(f"  their ensemble on test: {_on_test(found['test'], order)}")


def _on_test(test: Mapping[str, Any], order: Sequence[tuple[str, str]]) -> str:
    """Metrics of test with their intervals, in the order of `ranking.headline_metrics`."""
    named = ("/".join(pair) if "/".join(pair) in test else pair[0] for pair in order)
    keys = [key for key in named if key in test]
    return ", ".join(
        f"{k} {test[k]['value']:.3f}"
        + (f" ({test[k]['low']:.3f} to {test[k]['high']:.3f})" if "low" in test[k] else "")
        for k in dict.fromkeys(keys)
    )


def format_difference(row: Mapping[str, Any]) -> str:
    """The winner's difference in one metric, with its interval and p value."""
    name = "/".join(k for k in (row["metric"], row["label"]) if k)
    interval = f" ({row['low']:+.3f} to {row['high']:+.3f}), p {row['p']:.2g}" if "low" in row else ""
    noise = "; within noise" if "low" in row and row["low"] <= 0 <= row["high"] else ""
    folds = f"; better on {row['folds_better']} of {row['folds']} folds" if "folds" in row else ""
    folds += f", their means differ by {row['by_fold']:+.4f}" if "by_fold" in row else ""
    return f"{name} {row['value']:+.4f}{interval}{noise}{folds}"
