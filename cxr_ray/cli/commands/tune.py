"""`cxr-ray tune`: a config file with a `tune:` block, its trials shown as they come, what the winner is worth."""

import queue
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from cxr_ray import config as configs
from cxr_ray.cli import flags
from cxr_ray.cli.commands.train import FileFlag, Words
from cxr_ray.cli.terminal import console
from cxr_ray.errors import UserError

app = App(
    name="tune",
    usage="Usage: cxr-ray tune -c FILE|preset:NAME [--KNOB VALUE ...] [--address ADDRESS] | --resume SWEEP",
    help_format="markdown",
    help_epilogue="Knobs of the sweep, each a flag over the file (those of the trials: `cxr-ray train --help`):\n\n"
    + "\n".join(line.replace("`--", "`--tune.", 1) for line in flags.help_lines(configs.Tune)),
)

PAGE = "the page of the sweep could not be written"
LAST_S = 60.0
"""What the end of a sweep waits for its last drawing; a page of many trials takes some seconds."""


@app.default
def tune(
    *words: Words,
    config: FileFlag = None,
    address: str | None = None,
    resume: str | None = None,
    retry_failed: Annotated[bool, Parameter(negative="")] = False,
    refit: Literal["none", "best", "folds"] = "none",
) -> None:
    """Sweep knobs over one store: many trainings, judged label by label on the same rows.

    The file's `tune:` block says the space, how it is searched and what a trial is judged by; the rest of the file is what all
    trials share. The trials run on a Ray of this machine, or on the cluster at --address or RAY_ADDRESS.

    Parameters
    ----------
    config
        YAML file of knobs with a tune block, or preset:NAME for one that comes with cxr-ray.
    address
        Ray cluster to run on, such as auto; without it, the one that RAY_ADDRESS names (every Ray job sets it), else this machine.
    resume
        Folder of a sweep that was stopped or killed: finishes what is left and repeats nothing that ended. Knobs of the tune
        block that change no trial (--tune.trials 32, --tune.max_concurrent 4) may be given besides.
    retry_failed
        With --resume: trials that failed go on from their last checkpoints too, once what made them fail is mended.
    refit
        What to train after the sweep by the winner's knobs, on all rows (without data.limit); what is finished is not repeated.
        best: the run `refit` of the sweep. folds: a run for each of tune.folds (else 5) folds by patient, `folds/fold-K`, and
        their ensemble, `folds/ensemble`, judged on test.
    """
    if retry_failed and resume is None:
        raise UserError("--retry-failed is of --resume SWEEP; give both, or neither")
    if resume is None:
        wanted = read_config(config, words)
    else:
        wanted = read_sweep(resume, config, words)
    run(wanted, address=address, failed_again=retry_failed, refit=refit)


def read_config(file: str | None, words: tuple[str, ...]) -> configs.Config:
    """The config of a file with the knobs among `words` laid over it. Raises `UserError` naming the closest knob."""
    also = ["--config", "--address", "--resume", "--retry-failed", "--refit", "--help"]
    rest, values = flags.parse(words, configs.Config, also=also)
    if rest:
        raise UserError(f"unexpected {shlex.join(rest)}; a sweep is given by a file: cxr-ray tune -c FILE")
    return configs.load(file, values)


def read_sweep(folder: str, file: str | None, words: tuple[str, ...]) -> configs.Config:
    """The config of the sweep in `folder`, to go on with. Raises `UserError` where a file is given besides."""
    from cxr_ray.tuning import sweep as sweeps

    if file is not None:
        raise UserError(
            "--resume goes on with the sweep's own config, so -c cannot change it; for another give a new --name"
        )
    found = sweeps.load(folder)
    rest, values = flags.parse(words, configs.Config, also=["--address", "--retry-failed", "--refit", "--help"])
    if rest:
        raise UserError(f"unexpected {shlex.join(rest)} beside --resume")
    config = configs.validate(configs.merge(found.config.model_dump(), values), where="the flags")
    return config.model_copy(update={"name": found.path.name, "output": str(found.path.parent)})


def run(config: configs.Config, *, address: str | None = None, failed_again: bool = False, refit: str = "none") -> Any:
    """Sweep as `config` says, tell what came of it, and return the sweep."""
    from cxr_ray.on_ray import tune as on_ray

    with shown() as (log, watch):
        sweep = on_ray.tune(config, address=address, failed_again=failed_again, log=log, watch=watch)
    from cxr_ray.workflows import select

    worth = select.conclude(sweep)
    page = page_of(sweep)
    print_trials(sweep)
    print_comparison(sweep, worth)
    best = sweep.path / "best"
    if refit == "best":
        best = _trained(sweep, select.refit(sweep), address).path
        print(f"refit: {best}")
    if refit == "folds" and sweep.config.tune.folds and sweep.config.data.limit is None:
        print(f"the winner was trained on {sweep.config.tune.folds} folds already: best is their ensemble")
    elif refit == "folds":
        best = sweep.path / "folds" / "ensemble"
        print_folds(select.folded(sweep, [_trained(sweep, one, address) for one in select.on_folds(sweep)]), sweep)
        print(f"folds: {best}")
        page = page_of(sweep)
    if page is not None:
        print(f"page: {page}")
    print(f"sweep: {sweep.path}")
    print(f"next: open the page in a browser, or: cxr-ray evaluate {shlex.quote(str(best))}")
    return sweep


def _trained(sweep: Any, config: configs.Config, address: str | None) -> Any:
    """The run of one of the winner's further trainings; what is finished is not trained again."""
    from cxr_ray.on_ray import train as training
    from cxr_ray.workflows import select

    held = select.finished(sweep, config)
    if held is not None:
        print(f"{held.path} is finished already")
        return held
    return training.train(config, address=address)


@contextmanager
def shown() -> Iterator[tuple[Any, Any]]:
    """How progress is told: a live table on a terminal, lines without one; the page is written as trials report."""
    page = _harmless(_write_page, PAGE)
    if not sys.stdout.isatty():
        with _beside(page) as watch:
            yield (lambda line: print(line, flush=True)), watch
        return
    from rich.live import Live

    table = _harmless(lambda sweep: live.update(trial_table(sweep)), "the table of the trials could not be drawn")

    def draw(sweep: Any) -> None:
        table(sweep)
        page(sweep)

    def log(line: str) -> None:  # a path or an error may hold what would be read as markup
        live.console.print(line, markup=False, highlight=False, emoji=False)

    with Live(console=console(), refresh_per_second=2) as live, _beside(draw) as watch:
        yield log, watch


def page_of(sweep: Any) -> Any:
    """The sweep's page, written; None, with a line of warning, where it cannot be."""
    return _harmless(_write_page, PAGE)(sweep)


def _write_page(sweep: Any) -> Any:
    from cxr_ray.report import sweep_page

    return sweep_page.write(sweep)


def _harmless(draw: Callable[[Any], Any], said: str) -> Callable[[Any], Any]:
    """`draw`, but what it raises, a full disk or a defect of a figure, is one line of warning, once: the trials go on."""
    told = False

    def safe(sweep: Any) -> Any:
        nonlocal told
        try:
            return draw(sweep)
        except Exception as error:
            if not told:
                why = " ".join(str(error).split()) or type(error).__name__
                print(f"warning: {said}: {why}", file=sys.stderr, flush=True)
            told = True
            return None

    return safe


@contextmanager
def _beside(draw: Callable[[Any], None]) -> Iterator[Callable[[Any], None]]:
    """Draw a sweep in a thread of its own, the newest state alone: the trials wait for whoever hears of them.

    `draw` must not raise. The end waits `LAST_S` for the last drawing, not for ever."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()  # whose put never blocks
    ended = threading.Event()

    def work() -> None:
        while (sweep := waiting.get()) is not None:
            began = time.monotonic()
            draw(sweep)
            ended.wait(9 * (time.monotonic() - began))  # a tenth of a core at most

    def hear(sweep: Any) -> None:
        if waiting.empty():
            waiting.put(sweep)

    thread = threading.Thread(target=work, name="cxr-sweep-page", daemon=True)
    thread.start()
    try:
        yield hear
    finally:
        ended.set()
        waiting.put(None)
        thread.join(LAST_S)


def trial_table(sweep: Any) -> Any:
    """The trials as they stand: knobs, epochs, objectives, seconds; the best so far first, then those that run.

    A * marks, of several objectives, the trials that no other beats in all (see `sweeps.front`)."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from cxr_ray.tuning import ranking

    info, config = sweep.info, sweep.config
    trials = sweep.trials
    ended = [t for t in trials if t.status in ("finished", "stopped early", "failed")]
    left = max(0, int(info.get("planned") or 0) - len(ended))
    times = [t.seconds for t in ended if t.seconds]
    running = max(1, sum(t.status == "running" for t in trials))
    eta = f", about {left * sum(times) / len(times) / running:,.0f} s left" if times and left else ""
    shown = Table(title=f"{sweep.path.name}: {len(ended)} of {info.get('planned', '?')} trials ended{eta}", box=box.SIMPLE_HEAD,
                  title_justify="left", title_style="bold")  # fmt: skip
    several = len(info["metrics"]) > 1
    on = ranking.front(sweep.ranked(), config.tune.modes) if several else set()
    for name in (
        "trial",
        "status",
        "epoch",
        *info["knobs"],
        *info["metrics"],
        *(["pareto"] if several else []),
        "seconds",
    ):
        shown.add_column(Text(name), overflow="fold")
    sign = configs.sign_of(config.tune.modes[0])
    for t in sorted(trials, key=lambda t: -sign * t.values.get(config.tune.metrics[0], -sign * 1e9))[:30]:
        epochs = t.hyperparameters.get("train.epochs", config.train.epochs)
        cells = [t.name + (" (as written)" if t.base else ""), t.status, f"{t.epochs}/{epochs}",
                 *(_short(t.hyperparameters.get(k, "")) for k in info["knobs"]),
                 *(_short(t.values.get(m, "-")) for m in info["metrics"]), *(["*" if t.number in on else ""] if several else []),
                 f"{t.seconds:.0f}"]  # fmt: skip
        shown.add_row(*(Text(c) for c in cells))
    return shown


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_trials(sweep: Any) -> None:
    """The table once more, for good, and the failed trials with their reasons."""
    console().print(trial_table(sweep))
    for t in sweep.trials:
        if t.error:
            print(f"failed: trial {t.name}: {t.error}")


def print_comparison(sweep: Any, worth: dict[str, Any]) -> None:
    """The winner, what it reaches on test, and what its lead is worth."""
    from cxr_ray.tuning import ranking

    best = sweep.ranked()[0]
    hyperparameters = ", ".join(f"{k} {_short(v)}" for k, v in best.hyperparameters.items()) or "the config as written"
    print(f"winner: trial {', '.join(t.name for t in best.trials)}: {hyperparameters}")
    for name, value, deviation in zip(sweep.info["metrics"], best.values, best.deviation, strict=True):
        spread = f" (deviation between folds {deviation:.4f})" if deviation == deviation else ""
        print(f"  {name} {value:.4f}{spread}")
    order = ranking.headline(sweep.info["metrics"], sweep.info["labels"])
    for what, test in (
        ("on test", worth.get("test")),
        ("the ensemble on test", (worth.get("ensemble") or {}).get("test")),
    ):
        if test:
            print(f"  {what}: {_on_test(test, order)}")
    for row in worth["against"]:
        print(f"  less {row['what']} ({row['trial']}) on {row['part']}: {_lead(row)}")
    if worth.get("note"):
        print(f"  note: {worth['note']}")


def print_folds(found: Mapping[str, Any], sweep: Any) -> None:
    """What the winner's knobs come to over folds, and their ensemble on test."""
    from cxr_ray.tuning import ranking

    print(f"the winner's knobs on {len(found['runs'])} folds:")
    for name, one in found["objectives"].items():
        print(f"  {name} {one['mean']:.4f} (deviation between folds {one['deviation']:.4f})")
    if found["test"]:
        order = ranking.headline(sweep.info["metrics"], sweep.info["labels"])
        print(f"  their ensemble on test: {_on_test(found['test'], order)}")


def _on_test(test: Mapping[str, Any], order: Sequence[tuple[str, str]]) -> str:
    """Values of test with their intervals, in the order of `sweeps.headline`."""
    named = ("/".join(pair) if "/".join(pair) in test else pair[0] for pair in order)
    keys = [key for key in named if key in test]
    return ", ".join(
        f"{k} {test[k]['value']:.3f}"
        + (f" ({test[k]['low']:.3f} to {test[k]['high']:.3f})" if "low" in test[k] else "")
        for k in dict.fromkeys(keys)
    )


def _lead(row: Mapping[str, Any]) -> str:
    """The winner's lead in one metric, with the interval that chance gives it."""
    name = "/".join(k for k in (row["metric"], row["label"]) if k)
    interval = f" ({row['low']:+.3f} to {row['high']:+.3f}), p {row['p']:.2g}" if "low" in row else ""
    noise = "; within noise" if "low" in row and row["low"] <= 0 <= row["high"] else ""
    folds = f"; better on {row['folds_better']} of {row['folds']} folds" if "folds" in row else ""
    folds += f", their means differ by {row['by_fold']:+.4f}" if "by_fold" in row else ""
    return f"{name} {row['value']:+.4f}{interval}{noise}{folds}"
