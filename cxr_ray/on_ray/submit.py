"""Commands as jobs of a Ray cluster, over HTTP: submit, follow the log, stop. A job runs in an uploaded copy of a folder."""

import asyncio
import json
import logging
import os
import re
import shlex
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.runtime_env import packaging
from ray.job_submission import JobSubmissionClient

from cxr_ray.errors import Interrupted, UserError, masked

ADDRESS = "http://127.0.0.1:8265"
STOP_WAIT_S = 120
"""Time between a job's stop and its kill. Ray's default of 3 s is less than a step and a checkpoint of a large model need."""
WAITING_EVERY_S = 30.0
TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")
MOST_BYTES = 100 * 2**20
"""What Ray's dashboard takes in one request; the files are packed without compression."""
QUIET = logging.getLogger(f"{__name__}.quiet")
ENVIRONMENT = "RAY_API_SERVER_ADDRESS"
FAILURES = (RuntimeError, OSError, ray.exceptions.AuthenticationError)
"""What Ray's client raises for an answer that is none, a connection that is none, and a refused token."""
LOGGERS = ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")
"""Of Ray's client: hints of other commands than ours, closed connections, names of packages."""
RAY_LINE = re.compile(r"\S+ \S+\s(?:INFO|WARNING) job_manager\.py:\d+ -- .*")
"""A line of a job's log in which Ray says what it does before the command starts."""
SYSTEM_ERROR = re.compile(r"\[Errno -?\d+\] ([\w -]+)")
REFUSED = re.compile(r"status code 40[13]\b")


@dataclass(frozen=True)
class Job:
    """A command to submit."""

    name: str
    """The wanted submission id."""
    words: Sequence[str]
    """The command and its arguments, without `cxr-ray`."""
    working_dir: Path
    python: str = "python"
    """The interpreter on the cluster; a bare name is looked up in the PATH of `ray start`."""
    cpus: float = 0.0
    """Cores reserved for the command's own process: 0 for one that places its work itself, which then runs on the head."""
    gpus: float = 0.0

    @property
    def entrypoint(self) -> str:
        """The shell command of the job."""
        return shlex.join([self.python, "-m", "cxr_ray", *self.words])

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's description of the job's environment. It is stored on the cluster in plain text, and holds no secret."""
        return {
            "working_dir": str(self.working_dir),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1"},
        }

    def by_hand(self, address: str) -> str:
        """The `ray job submit` command that does the same."""
        environment = {"env_vars": self.runtime_env["env_vars"]}
        place = [*(["--entrypoint-num-cpus", f"{self.cpus:g}"] if self.cpus else [])]
        place += ["--entrypoint-num-gpus", f"{self.gpus:g}"] if self.gpus else []
        words = ["ray", "job", "submit", "--address", address, "--submission-id", self.name, *place]
        words += ["--working-dir", str(self.working_dir), "--runtime-env-json", json.dumps(environment), "--"]
        return f"{shlex.join(words)} {self.entrypoint}"


class UnknownJob(UserError):
    """The cluster has no job of this name."""


class Jobs:
    """The jobs of the cluster whose dashboard is at `address`. Raises `UserError` if it does not answer or refuses the token."""

    def __init__(self, address: str | None = None) -> None:
        self._address = _dashboard(address)
        self.address = masked(self._address)
        """URL of the dashboard, without its secrets."""
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            with _environment(ENVIRONMENT, self._address):  # Ray prefers its variables to the address that it is given
                self._client: Any = JobSubmissionClient(self._address)
            self._client.get_version()
        except (*FAILURES, ValueError) as error:
            raise self._user_error(error) from None

    def command(self, *flags: str) -> str:
        """`cxr-ray submit FLAGS` for this cluster."""
        return shlex.join(["cxr-ray", "submit", *flags, "--address", self.address])

    def start(self, job: Job) -> str:
        """Upload the working directory and start `job`; returns its id: the name, with a number if that is used already.

        Raises `UserError` for a folder that is too large, before Ray reads and packs it."""
        if upload_bytes(job.working_dir) > MOST_BYTES:
            raise UserError(
                f"{job.working_dir} has more than the 100 MiB that Ray takes: list data, runs and environments in its .gitignore or "
                ".rayignore, or give a smaller folder with --working-dir"
            )
        name, number = job.name, 2
        used = {row["name"] for row in self.list()}
        while name in used or not self._start(job, name):
            name, number = f"{job.name}-{number}", number + 1
        return name

    def _start(self, job: Job, name: str) -> bool:
        """Start `job` with this id; False if another submit has just taken it."""
        try:
            return bool(
                self._client.submit_job(
                    entrypoint=job.entrypoint,
                    submission_id=name,
                    runtime_env=job.runtime_env,
                    entrypoint_num_cpus=job.cpus or None,
                    entrypoint_num_gpus=job.gpus or None,
                )
            )
        except FAILURES as error:
            if "already exists" in str(error):
                return False
            raise self._user_error(error) from None
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; the job {name} may have started all the same: {self.command('--stop', name)}"
            ) from None

    def status(self, name: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED. Raises `UserError` for an unknown job."""
        return str(self._info(name).status)

    def started(self, name: str) -> float:
        """When a job was started, in seconds since 1970 by the cluster's clock. Raises `UserError` for an unknown job."""
        return float(self._info(name).start_time or 0) / 1000

    def exit_code(self, name: str) -> int:
        """The exit code of an ended job's command; 143 if it was stopped."""
        info = self._info(name)
        if str(info.status) == "SUCCEEDED":
            return 0
        if str(info.status) == "STOPPED":
            return 143
        return int(info.driver_exit_code or 1)

    def list(self) -> list[dict[str, Any]]:
        """name, status, started (seconds since 1970), command, of each submitted job, newest first."""
        try:
            found = [d for d in self._client.list_jobs() if d.submission_id]
        except FAILURES as error:
            raise self._user_error(error) from None
        rows = [
            {
                "name": d.submission_id,
                "status": str(d.status),
                "started": (d.start_time or 0) / 1000,
                "command": d.entrypoint,
            }
            for d in found
        ]
        return sorted(rows, key=lambda row: -float(row["started"]))

    def stop(self, name: str) -> bool:
        """Ask a job to stop: its command gets SIGTERM, writes a checkpoint, and ends. False if it has ended already.

        Raises `UserError` for an unknown job."""
        if self.status(name) in TERMINAL:
            return False
        try:
            return bool(self._client.stop_job(name))
        except FAILURES as error:
            raise self._user_error(error) from None

    def follow(self, name: str, log: Callable[[str], None]) -> str:
        """Pass the job's output to `log` line by line until it ends; returns its status. While it waits for room, a line every 30 s.

        Raises `UserError` for an unknown job, and if the cluster does not answer any more: a tunnel or the head may have ended."""
        try:
            return asyncio.run(self._follow(name, log))
        except UnknownJob:
            raise
        except (UserError, *FAILURES) as error:
            reason = error if isinstance(error, UserError) else self._user_error(error)
            raise UserError(
                f"the log of the job {name} broke off, and the job may go on (`{self.command('--follow', name)}` shows it again): {reason}"
            ) from None

    async def _follow(self, name: str, log: Callable[[str], None]) -> str:
        shown, rest = 0, ""
        waiting_since = logged = time.monotonic()
        while True:
            status = self.status(name)
            if status == "PENDING" and time.monotonic() - logged >= WAITING_EVERY_S:
                logged = time.monotonic()
                message = " ".join(str(self._info(name).message or "").split())
                log(f"waiting {logged - waiting_since:.0f} s for the job to start: {message}")
            if status != "PENDING":
                skip = shown
                async for text in self._tail(name):
                    fresh = text[skip:] if skip else text
                    skip = max(0, skip - len(text))
                    shown += len(fresh)
                    *lines, rest = (rest + fresh).split("\n")
                    for line in lines:
                        if not RAY_LINE.fullmatch(line):
                            log(line)
            if (status := self.status(name)) in TERMINAL:
                if rest:
                    log(rest)
                return status
            await asyncio.sleep(1.0)

    async def _tail(self, name: str) -> AsyncIterator[str]:
        """What the job writes, until it ends or the connection is lost; a new call starts at the beginning again."""
        with suppress(*FAILURES):
            async for text in self._client.tail_job_logs(name):
                yield text

    def _info(self, name: str) -> Any:
        try:
            return self._client.get_job_info(name)
        except FAILURES as error:
            if "status code 404" in str(error):
                raise UnknownJob(
                    f"no job {name} on {self.address}; `{self.command('--status')}` lists the jobs"
                ) from None
            raise self._user_error(error) from None

    def _user_error(self, error: Exception) -> UserError:
        text = " ".join(str(error).replace(self._address, self.address).split())
        if isinstance(error, ray.exceptions.AuthenticationError) or REFUSED.search(text):
            return UserError(
                f"the cluster at {self.address} wants its token: set RAY_AUTH_MODE=token and keep the head's token in ~/.ray/auth_token "
                f"(or name its file in RAY_AUTH_TOKEN_PATH) ({text[:200]})"
            )
        if "status code" in text:
            return UserError(f"the cluster at {self.address} refuses: {text[:300]}")
        return UserError(
            f"no Ray dashboard answers at {self.address}{_reason(text)}; give --address http://HEAD:8265, or open a tunnel with "
            "`ray dashboard cluster.yaml`"
        )


def _reason(text: str) -> str:
    """What a failed connection says beyond that it failed, in parentheses: the system's own words where it has them."""
    if found := SYSTEM_ERROR.search(text):
        return f" ({found[1]})"
    return "" if text.startswith("Failed to connect to Ray") else f" ({text[:200]})"


def upload_bytes(folder: Path) -> int:
    """Bytes of the files that Ray uploads of a working directory; it stops to count above `MOST_BYTES`."""
    return _bytes_below(folder, [packaging._get_excludes(folder, ray_constants.get_runtime_env_default_excludes())])


def _bytes_below(folder: Path, inherited: Sequence[Callable[[Path], bool]]) -> int:
    excludes = [*inherited, *packaging.get_excludes_from_ignore_files(folder, include_gitignore=True, logger=QUIET)]
    total = 0
    for path in folder.iterdir():
        if not any(exclude(path) for exclude in excludes):
            total += _bytes_below(path, excludes) if path.is_dir() else path.stat().st_size if path.is_file() else 0
        if total > MOST_BYTES:
            break
    return total


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment within the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _dashboard(address: str | None) -> str:
    """The URL of the dashboard: `address`, else RAY_API_SERVER_ADDRESS, else RAY_ADDRESS if it is one, else Ray's own default here."""
    ours = os.environ.get("RAY_ADDRESS", "")
    found = address or os.environ.get(ENVIRONMENT) or (ours if ours.startswith(("http://", "https://")) else ADDRESS)
    if found.startswith("ray://") or found == "auto":
        raise UserError(f"--address {found}: jobs are submitted to the dashboard: give --address http://HEAD:8265")
    return (found if "://" in found else f"http://{found}").rstrip("/")
