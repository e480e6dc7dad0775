"""`cxr-ray submit`: runs another command as a job of a Ray cluster. The jobs themselves are in on_ray.submit."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from cxr_ray.cli.command_list import COMMANDS
from cxr_ray.cli.terminal import table
from cxr_ray.errors import UserError, has_secret, masked, unknown

if TYPE_CHECKING:
    from cxr_ray.on_ray.submit import Job, Jobs

PLACES_ITS_WORK = ("ingest", "train", "tune", "serve")
"""Commands that start Ray workers for what is heavy. The others do it in their own process, and run on a worker's node."""
WITH_WORKERS = ("predict", "explain")
"""Those that do so with several workers."""
WITH_NAME = ("train", "tune")
FILE_FLAGS = ("-c", "--config")
PATH_FLAGS = ("--store", "--data.shards", "--output", "--out", "--save", "--report", "--resume", "--from")
"""Flags of data and results, for which also a bare name is a path."""
NO_PATHS = {"ingest": 1, "sources": 1, "models": 1, "completion": 1}
"""How many words behind the command are names. The others before the first flag are paths, and also a bare name is one."""
OUT = {"demo": "--out", "init": "--out", "--augmented": "--save"}
"""Commands, and a flag of `describe`, that write into the working directory unless this flag says where."""
RELATIVE = re.compile(r"[\w.~+@%=][\w.~+@%=-]*(?:/[\w.~+@%=-]+)*/?")
"""What can be a relative path: no pattern, list or sentence, and no absolute path or URL."""
FILES = (
    "report",
    "page",
    "comparison",
    "predictions",
    "model card",
    "figure",
    "curves",
    "image",
    "images",
    "augmented",
)
WRITTEN = ("phantom", "shards", "run", "sweep", "folds", "features", "model", "config", *FILES)
RESULT = re.compile(rf"({'|'.join(WRITTEN)}): ((?:/|\w+://).*?)(?: \(.*\))?")
"""A line in which a command says what it has written, and where; `FILES` are those that one looks at."""

app = App(
    name="submit",
    usage="Usage: cxr-ray submit [--address URL] [--no-wait] -- COMMAND ... | --status | --follow NAME | --stop NAME",
    help_format="markdown",
    help_epilogue="`cxr-ray submit -- train -c preset:demo --store /data/shards/x --output /data/runs --name first --train.workers 2`",
)


@app.default
def submit(
    *words: Annotated[str, Parameter(name="command", allow_leading_hyphen=True)],
    address: str | None = None,
    working_dir: Path = Path(),
    python: str = "python",
    gpus: float = 0.0,
    wait: bool = True,
    status: Annotated[bool, Parameter(negative="")] = False,
    follow: str | None = None,
    stop: str | None = None,
) -> int:
    """Run another command as a job of a Ray cluster, and follow its log.

    The working directory is uploaded without what .gitignore names; data and results are absolute paths that every node sees, or URLs.
    Ctrl-C ends the following, not the job. The job's id is the name of its run.

    Parameters
    ----------
    words
        The command after `--`, as on this machine: `-- train -c my.yaml --output /data/runs`.
    address
        URL of the cluster's dashboard. Default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS if that is a URL, else http://127.0.0.1:8265.
    working_dir
        Folder to upload, less than 100 MiB.
    python
        Interpreter on the cluster. A bare name is looked up in the PATH that `ray start` had.
    gpus
        GPUs for a command that runs in one process, such as evaluate. Trainings ask for theirs themselves.
    wait
        Follow the log until the job ends, and end with its exit code.
    status
        List the cluster's jobs.
    follow
        Show the log of the job of this name from its beginning, and go on until it ends.
    stop
        Stop the job of this name: it writes a checkpoint first.
    """
    from cxr_ray.on_ray import submit as on_ray

    again = ["--working-dir", str(working_dir)] if working_dir != Path() else []
    again += ["--python", python] if python != "python" else []
    if status or follow is not None or stop is not None:
        if words:
            raise UserError("--status, --follow and --stop take no command")
        if status + (follow is not None) + (stop is not None) > 1:
            raise UserError("give one of --status, --follow and --stop")
        jobs = on_ray.Jobs(address)
        if follow is not None:
            return _follow(jobs, follow, again, address)
        if stop is not None:
            if jobs.stop(stop):
                print(f"stopping: {stop} (it may take {on_ray.STOP_WAIT_S} s for a step and a checkpoint)")
            else:
                print(f"job: {stop} has ended already: {jobs.status(stop).lower()}")
            print(f"next: {shlex.join(['cxr-ray', 'submit', '--status', *_address(address)])}")
        else:
            _list(jobs)
        return 0
    job = read_job(words, working_dir.absolute(), python=python, gpus=gpus)
    jobs = on_ray.Jobs(address)
    name = jobs.start(job)
    print(f"job: {name} on {jobs.address}")
    print(f"same as: {replace(job, name=name).by_hand(jobs.address)}")
    if not wait:
        print(f"next: {shlex.join(['cxr-ray', 'submit', '--follow', name, *_address(address), *again])}")
        return 0
    return _follow(jobs, name, again, address)


def _follow(jobs: "Jobs", name: str, again: Sequence[str], address: str | None) -> int:
    """Print the job's log until it ends, and then what it has written. `again` are the flags that another submit needs too."""
    written: dict[str, str] = {}  # by path, what it is
    submit = f"{shlex.join(['cxr-ray', 'submit', *_address(address), *again, '--'])} "

    def show(line: str) -> None:
        print(line.replace("cxr-ray submit -- ", submit))
        if found := RESULT.fullmatch(line):
            written[found[2]] = found[1]

    try:
        status = jobs.follow(name, show)
    except KeyboardInterrupt:
        print(f"the job {name} goes on; stop it with: {jobs.command('--stop', name)}")
        print(f"to follow it again: {jobs.command('--follow', name, *again)}")
        return 0
    print(f"job: {name} {status.lower()}")
    if status == "SUCCEEDED":
        since = jobs.started(name)
        away = [path for path in written if not _is_here(Path(path), since)]
        for path in written:
            print(f"result: {path}, on the cluster's storage" if path in away else f"result: {path}")
        for path in away:
            if written[path] in FILES and path.startswith("/"):
                fetch = ["ray", "rsync-down", "cluster.yaml", path, Path(path).name]
                print(f"to read it here: {shlex.join(fetch)}")
    return jobs.exit_code(name)


def _is_here(path: Path, since: float) -> bool:
    """Whether this machine sees what a job wrote since that time; an older file of this path is another one."""
    try:
        return path.stat().st_mtime >= since
    except OSError:
        return False


def read_job(words: tuple[str, ...], working_dir: Path, *, python: str = "python", gpus: float = 0.0) -> "Job":
    """The job of a command. Raises `UserError` for what would fail on the cluster and can be seen here."""
    from cxr_ray.on_ray.submit import Job

    if not words:
        raise UserError("give the command after --, as in: cxr-ray submit -- train -c my.yaml --output /data/runs")
    command, rest = words[0], list(words[1:])
    if command not in COMMANDS or command == "submit":
        raise unknown("command", command, [name for name in COMMANDS if name != "submit"])
    if not working_dir.is_dir():
        raise UserError(f"--working-dir {working_dir} is no folder")
    if secret := next((word for word in rest if has_secret(word)), None):
        raise UserError(
            f"a job's command is shown to everyone who sees the cluster, and {secret} contains a secret: set credentials on its nodes"
        )
    settings = _settings(rest, working_dir) if command in WITH_NAME else {}
    _check_paths(command, rest, working_dir, settings)
    name = _flag(rest, "--name") or settings.get("name") if command in WITH_NAME else None
    if name is None and command in WITH_NAME and (resumed := _flag(rest, "--resume")) is not None:
        name = Path(resumed).name
    if name is None:
        name = f"{command}-{datetime.now():%Y%m%d-%H%M%S}"
        if command in WITH_NAME:
            rest += ["--name", name]
    job_id = re.sub(r"[^\w.-]+", "-", str(name))  # it is a part of URLs
    if command in PLACES_ITS_WORK or (command in WITH_WORKERS and _flag(rest, "--workers") not in (None, "1")):
        return Job(job_id, (command, *rest), working_dir, python)
    return Job(job_id, (command, *rest), working_dir, python, cpus=1.0, gpus=gpus)


def _settings(words: list[str], working_dir: Path) -> dict[str, Any]:
    """What the config file of a command says, if it can be read here. Raises `UserError` for a file that the job will not find."""
    from cxr_ray.config import read_file

    given = next((found for flag in FILE_FLAGS if (found := _flag(words, flag)) is not None), None)
    if given is None:
        return {}
    if given.startswith("preset:"):
        read_file(given)
        return {}
    file = working_dir / given
    inside = file.resolve().is_relative_to(working_dir.resolve())
    if not Path(given).is_absolute() and not (inside and file.exists()):
        raise UserError(
            f"there is no config file {given} in {working_dir}, and a job runs in a copy of that folder: put it there, give another "
            "--working-dir, or an absolute path that every node sees"
        )
    return read_file(str(file)) if file.is_file() else {"output": given}  # of the cluster: its job checks it


def _check_paths(command: str, words: list[str], working_dir: Path, settings: Mapping[str, Any]) -> None:
    """Raises `UserError` for a relative path that is not a file of the working directory: a job runs in a copy of that folder."""
    from cxr_ray.config import value_at

    output = _flag(words, "--output") or settings.get("output")
    if command in WITH_NAME and output is None and not any(_flag(words, flag) for flag in ("--resume", "--from")):
        raise UserError(
            f"a job's {command} needs --output with an absolute path that every node sees, such as --output /data/runs: the default, "
            "runs, would be written to Ray's copy of the working directory"
        )
    for writes in OUT.keys() & {command, *(word for word in words if word.startswith("--"))}:
        if _flag(words, OUT[writes]) is None:
            raise UserError(
                f"a job's {command} needs {OUT[writes]} with an absolute path that every node sees: the default would be written to Ray's "
                "copy of the working directory"
            )
    first_flag = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    pairs = [("", word) for word in words[NO_PATHS.get(command, 0) : first_flag]]
    flags = words[first_flag:]
    pairs += [(before, word) for before, word in zip(["--", *flags], flags, strict=False) if before not in FILE_FLAGS]
    of_file = {"--output": ("--output",), "--data.shards": ("--data.shards", "--store")}
    pairs += [
        (flag, value_at(settings, flag.removeprefix("--")))
        for flag, over in of_file.items()
        if not any(_flag(words, each) for each in over)
    ]
    for before, word in pairs:
        if not isinstance(word, str) or word.partition("=")[0] in FILE_FLAGS:
            continue
        flag, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
        if not RELATIVE.fullmatch(value):
            continue
        is_bare = bool(flag) and "/" not in value and not (working_dir / value).is_dir()
        if flag not in PATH_FLAGS and ((working_dir / value).is_file() or is_bare):
            continue
        raise UserError(
            f"{value} is a relative path, and a job runs in a copy of {working_dir}, which has no data and does not last: give an absolute "
            "path that every node sees, or a URL"
        )


def _flag(words: list[str], flag: str) -> str | None:
    """The value of a flag, in either spelling."""
    for at, word in enumerate(words):
        if word == flag and at + 1 < len(words):
            return words[at + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _list(jobs: "Jobs") -> None:
    rows = jobs.list()
    if not rows:
        print(f"no jobs on {jobs.address}")
        return
    table(
        ["job", "status", "started", "command"],
        [
            [
                row["name"],
                row["status"].lower(),
                f"{datetime.fromtimestamp(row['started']):%Y-%m-%d %H:%M}",
                row["command"].partition("-m cxr_ray ")[2] or row["command"],
            ]
            for row in rows
        ],
        title=f"{len(rows)} job{'s' if len(rows) != 1 else ''} of {jobs.address}",
        first_out=["started"],
    )


def _address(address: str | None) -> list[str]:
    return [] if address is None else ["--address", masked(address)]
