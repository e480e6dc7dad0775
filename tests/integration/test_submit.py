"""A real head node with dashboard and token, and jobs submitted over HTTP, as in the README."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_ray.runs import events, load
from tests.fakes.ports import free_port
from tests.fakes.ranks import on_ranks
from tests.fakes.store import fake_store
from tests.fakes.trainings import assert_same_weights_and_metrics, config, write_store
from tests.fakes.waiting import until
from tests.on_ray.test_train import train_without_ray

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], str]]:
    """A head node for this module: its environment (with token) and its dashboard's address. Its process is stopped at the end."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PATH"] = (
        f"{Path(sys.executable).parent}:{environment['PATH']}"  # a job's `python` is that of `ray start`
    )
    environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # no wait of 30 s for clients that do not exist
    port, dashboard = free_port(), free_port()
    command = [RAY, "start", "--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    # The default port of the agent is in use by the Ray of the other tests.
    command += ["--num-cpus=2", "--disable-usage-stats", "--block", "--node-ip-address=127.0.0.1"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    # A job finds its cluster by a file of this folder, which is that of the newest Ray of the machine if they share one.
    command += [f"--temp-dir={(own := tempfile.mkdtemp(prefix='ray'))}"]
    address = f"http://127.0.0.1:{dashboard}"
    log = folder / "head.log"
    process = start(command, environment, log)
    try:
        assert wait_until_it_answers(address, environment, process), log.read_text()[-4000:]
        yield environment, address
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(own, ignore_errors=True)


def start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in its own process group: what this head starts ends with it, and nothing else."""
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def wait_until_it_answers(address: str, environment: dict[str, str], process: subprocess.Popen[bytes]) -> bool:
    """Whether jobs are accepted; False if the head node exited before."""
    # The dashboard answers before the agent that starts jobs is registered, so submit a job to find out.
    probe = [RAY, "job", "submit", "--address", address, "--no-wait", "--", "true"]
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        result = subprocess.run(probe, env=environment, capture_output=True)
        if result.returncode == 0:
            return True
        if process.poll() is not None:
            return False
        time.sleep(1)
    raise AssertionError(f"the head does not answer: {result.stderr.decode()[-2000:]}")


def submit(head: tuple[dict[str, str], str], *args: str, token: bool = True) -> subprocess.CompletedProcess[str]:
    environment, address = head
    if not token:
        environment = {k: v for k, v in environment.items() if not k.startswith("RAY_AUTH")}
        environment["RAY_AUTH_MODE"] = "disabled"
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", sys.executable, *args]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.mark.cluster
@pytest.mark.slow
def test_ingest_and_train_with_two_workers_over_http(head, tmp_path):
    from cxr_ray import runs
    from cxr_ray.datasets.phantom import generate

    raw = generate.write(tmp_path / "raw", patients=40, size=64, seed=0)
    done = submit(head, "jobs/ingest.py", "phantom", str(raw), str(tmp_path / "shards"), "--size", "32")
    assert done.returncode == 0, done.stdout + done.stderr
    flags = f"--data.shards {tmp_path}/shards --output {tmp_path}/runs --name job --model.name lenet --train.epochs 1 --train.workers 2"
    done = submit(head, "jobs/train.py", *shlex.split(flags))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line == f"run: {tmp_path}/runs/job" for line in lines)  # plain lines, without a worker's prefix
    assert [m[1] for line in lines if (m := re.match(r"epoch (\d)/1  ", line))] == ["0", "1"]
    run = runs.load(tmp_path / "runs" / "job")
    assert run.info["status"] == "finished" and run.info["workers"] == 2


@pytest.mark.cluster
def test_a_wrong_config_is_a_failed_job_with_one_clear_line(head, tmp_path):
    done = submit(head, "jobs/train.py", "--data.shards", str(tmp_path / "nothing"))
    assert done.returncode == 1  # exit code of `ray job submit` for a failed job
    assert re.search(r"Job 'raysubmit_\w+' failed", done.stdout + done.stderr)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("cxr-ray: error: ")]
    assert set(errors) == {
        f"cxr-ray: error: no store at {tmp_path}/nothing: there is no such folder; make one with cxr-ray ingest"
    }
    assert "Traceback" not in done.stdout


@pytest.mark.cluster
def test_without_the_token_nothing_runs(head):
    done = submit(head, "jobs/train.py", "--version", token=False)
    assert done.returncode != 0 and "token" in (done.stdout + done.stderr).lower()


@pytest.mark.cluster
@pytest.mark.slow
def test_submit_follows_the_job_and_ends_with_its_exit_code(head, tmp_path):
    environment, address = head

    def cxr_ray(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cxr_ray", *words]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280)

    start = ["submit", "--address", address, "--python", sys.executable]
    done = cxr_ray(*start, "--", "phantom", str(tmp_path / "raw"), "--patients", "4", "--size", "32")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        rf"^same as: ray job submit --address {address} --submission-id phantom-\d+-\d+ ", done.stdout, re.M
    )
    assert (tmp_path / "raw" / "images").is_dir()
    failed = cxr_ray(*start, "--", "verify", str(tmp_path / "nothing"))
    assert failed.returncode == 2
    assert "cxr-ray: error: no store at" in failed.stdout

    waiting = cxr_ray(*start, "--no-wait", "--", *TRAINING.format(tmp_path).split())
    assert waiting.returncode == 0, waiting.stdout + waiting.stderr
    listed = cxr_ray("submit", "--address", address, "--status")
    assert re.search(r"^ *first\b.*(pending|running|failed)", listed.stdout, re.M), listed.stdout
    assert cxr_ray("submit", "--address", address, "--stop", "nobody").returncode == 2
    assert cxr_ray("submit", "--address", address, "--stop", "first").returncode == 0


def typed_commands() -> list[str]:
    """The commands for a cluster that runs, as the guide and the shipped files have them, each on one line."""
    guide = (ROOT / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", guide, re.S)).replace("\\\n", " ")
    shipped = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    lines = [*blocks.splitlines(), *re.findall(r"^#\s+(cxr-ray submit -- .*)$", shipped, re.M)]
    rayjob = (ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8")
    entrypoint = " ".join(re.findall(r"(python -m cxr_ray .*\n(?: {4}--.*\n)*)", rayjob)[0].split())
    submit = "ray job submit --address http://127.0.0.1:8265 --working-dir . --"
    return [*(line for line in lines if line.startswith(("ray job ", "cxr-ray "))), f"{submit} {entrypoint}"]


MISSING = re.compile(
    r"cxr-ray: error: no (?:store|folder) at /data/[\w./-]+: there is no such folder|no folder at /data/"
)


@pytest.mark.cluster
@pytest.mark.long
def test_the_commands_of_the_guide_and_of_the_shipped_files_run_as_they_are_written(head):
    """Up to their data, which is not here. Only the dashboard's port is another one."""
    environment, address = head
    environment = {**environment, "RAY_API_SERVER_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    commands = typed_commands()
    assert sum(line.startswith("ray job") for line in commands) == 2 and len(commands) >= 6
    for line in commands:
        command = line.replace("http://127.0.0.1:8265", address)
        done = subprocess.run(
            ["bash", "-c", command], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280
        )
        said = done.stdout + done.stderr
        if "--status" in line:
            assert done.returncode == 0 and re.search(r"^ *first\b", said, re.M), said
        else:
            assert done.returncode in (1, 2) and MISSING.search(said), (line, said[-3000:])


@pytest.mark.cluster
@pytest.mark.long
def test_the_training_of_the_guide_on_a_store_that_is_there(head, tmp_path):
    from cxr_ray.datasets.phantom import generate

    environment, address = head
    raw = generate.write(tmp_path / "raw", patients=30, size=96, seed=0)
    (line,) = (each for each in typed_commands() if each.startswith("cxr-ray submit -- train -c preset:demo"))
    ingest = f"cxr-ray submit -- ingest phantom {raw} /data/shards/x --size 96"
    for command in (ingest, line):
        done = subprocess.run(
            ["bash", "-c", command.replace("/data", str(tmp_path))],
            env={**environment, "RAY_API_SERVER_ADDRESS": address, "PYTHONPATH": str(ROOT)},
            cwd=ROOT, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert load(tmp_path / "runs" / "first").info["status"] == "finished"
    (proposed,) = [each for each in done.stdout.splitlines() if each.startswith("next: ") and "/first" in each][-1:]
    assert proposed == f"next: cxr-ray submit -- evaluate {tmp_path}/runs/first"


def test_the_head_of_the_guide_is_started_with_flags_that_ray_has():
    """Not started here: another Ray may use its ports."""
    from ray.scripts.scripts import start as ray_start

    guide = (ROOT / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ray start (.*)$", guide, re.M)
    found = ray_start.make_context("start", shlex.split(line))
    assert found.params["head"] and found.params["dashboard_host"] == "127.0.0.1"


TRAINING = "train --store {0}/missing --output {0}/runs --name first"


@pytest.mark.cluster
@pytest.mark.long
def test_a_job_submitted_to_a_full_cluster_waits_with_lines_and_ends_equal(head, tmp_path):
    """A colleague's job holds one of the two CPUs until it is stopped."""
    environment, address = head
    folder = write_store(tmp_path / "store", fake_store(64))
    train = {"workers": 2, "threads": 1}
    wanted = config(tmp_path / "runs", name="busy", data={"shards": str(folder)}, train=train)
    (tmp_path / "busy.yaml").write_text(wanted.to_yaml(), encoding="utf-8")

    def ray_job(word: str, *words: str) -> str:
        command = [RAY, "job", word, "--address", address, *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout

    place = ["--entrypoint-num-cpus", "1", "--no-wait", "--submission-id", "colleague"]
    ray_job("submit", *place, "--", "sleep", "600")
    until(lambda: "RUNNING" in ray_job("status", "colleague"), 60)
    command = [sys.executable, "-m", "cxr_ray", "submit", "--address", address, "--python", sys.executable, "--"]
    command += ["train", "-c", str(tmp_path / "busy.yaml"), "--output", str(tmp_path / "runs"), "--name", "busy"]
    output = tmp_path / "output.txt"
    with output.open("w") as file:
        submitted = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    try:
        until(lambda: "waiting for 2 x {CPU: 1}; free 1" in output.read_text(), 120, submitted)
        ray_job("stop", "--no-wait", "colleague")
        assert submitted.wait(200) == 0, output.read_text()
    finally:
        submitted.kill()
    lines = output.read_text().splitlines()
    assert "job: busy succeeded" in lines and any("there is room now, after" in line for line in lines)
    assert f"result: {tmp_path}/runs/busy" in lines  # this machine sees it
    whole = config(tmp_path / "runs", name="whole", data={"shards": str(folder)}, train=train)
    on_ranks(2, tmp_path, train_without_ray, whole)
    runs = [load(tmp_path / "runs" / name) for name in ("busy", "whole")]
    assert_same_weights_and_metrics(*runs)
    assert [event["event"] for event in events.read(runs[0].path)] == [
        "started",
        "waiting",
        "waiting",
        "workers",
        "finished",
    ]
