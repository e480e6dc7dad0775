"""`cxr-ray submit` without a cluster: what it refuses before anything is uploaded. With one: tests/integration/test_submit.py."""

import logging
import os
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cxr_ray.cli import main
from cxr_ray.cli.commands.submit import read_job
from cxr_ray.errors import UserError
from cxr_ray.on_ray import submit as on_ray

TRAIN = ["train", "--store", "/data/x", "--output", "/data/runs"]
INGEST = ["ingest", "table", "/data", "/out", "--table", "films.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the command after --"),
        (["trian"], "did you mean 'train'"),
        (["submit", "--", "train"], "unknown command"),
        (["train", "--store", "/data/x"], "needs --output with an absolute path"),
        (["tune", "-c", "preset:demo"], "needs --output with an absolute path"),
        (["train", "--store", "shards/x", "--output", "/data/runs"], "shards/x is a relative path"),
        (["train", "--store=shards/x", "--output", "/data/runs"], "shards/x is a relative path"),
        (["train", "--store", "/data/x", "--output", "runs/here"], "runs/here is a relative path"),
        (["evaluate", "runs/first"], "runs/first is a relative path"),
        (["ingest", "nih", "folder", "/data/out"], "folder is a relative path"),
        (["train", "--store", "shards", "--output", "/data/runs"], "shards is a relative path"),
        (["train", "--store", "/data/x", "--output=runs"], "runs is a relative path"),
        (["describe", "/data/x", "--out", "described"], "described is a relative path"),
        (["train", "-c", "missing.yaml", "--output", "/data/runs"], "there is no config file missing.yaml in "),
        (["train", "--config=missing.yaml", "--output", "/data/runs"], "there is no config file missing.yaml in "),
        (["train", "-c", "../outside.yaml", "--output", "/data/runs"], "there is no config file ../outside.yaml in "),
        (["train", "-c", "relative.yaml"], "runs is a relative path"),
        (["train", "-c", "preset:dmo", "--output", "/data/runs"], "did you mean 'demo'"),
        (["phantom", "phantom", "--patients", "9"], "phantom is a relative path"),
        (["ingest", "nih", "/data/raw", "shards"], "shards is a relative path"),
        (
            ["ingest", "nih", "/data/raw", "/data/out", "--dry-run", "--report", "report.txt"],
            "report.txt is a relative path",
        ),
        (["predict", "/data/runs/first", "/data/x", "out.csv"], "out.csv is a relative path"),
        (["describe", "/data/x", "--row", "0", "--save", "row.png"], "row.png is a relative path"),
        (["demo"], "a job's demo needs --out"),
        (["describe", "/data/x", "--augmented"], "a job's describe needs --save"),
        (["train", "-c", "relative.yaml", "--output", "/data/runs"], "shards is a relative path"),
    ],
)
def test_what_would_fail_on_the_cluster_is_refused_here(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "work"
    (folder / "folder").mkdir(parents=True)
    (folder / "relative.yaml").write_text("data: {shards: shards}\noutput: runs\n")
    (tmp_path / "outside.yaml").touch()
    assert main(["submit", "--working-dir", str(folder), "--", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        TRAIN,
        ["train", "-c", "configs/here.yaml", "--lr", "1e-3"],
        ["train", "-c", "/data/of/the/cluster.yaml"],
        ["train", "-c", "shards.yaml", "--store", "/data/x"],
        ["train", "--from", "/data/runs/first", "--epochs", "3"],
        [*INGEST, "--values", "{Y: 1}", "--patient-regex", "^(p/[0-9]+)_"],
        [*TRAIN, "--name", "demo"],
        ["evaluate", "/data/runs/first", "--thresholds", "recall=0.9"],
        ["predict", "/data/runs/first", "films.csv", "/data/out.csv", "--labels", "Edema", "Mass"],
        INGEST,
        ["models", "resnet18", "--size", "224"],
        ["train", "--resume", "/data/runs/first"],
    ],
)
def test_what_may_work_gets_as_far_as_the_cluster(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "films.csv").touch()
    (tmp_path / "shards.yaml").write_text("data: {shards: shards}\noutput: /data/runs\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "here.yaml").write_text("data: {shards: /data/x}\noutput: /data/runs\nname: own\n")
    # Port 9 discards: nothing listens there.
    flags = ["--address", "http://127.0.0.1:9", "--working-dir", str(tmp_path)]
    assert main(["submit", *flags, "--", *words]) == 2
    assert "no Ray dashboard answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("train --store /x --output /runs", ""),
        ("tune --store /x --output /runs", ""),
        ("ingest nih /raw /x", ""),
        ("serve /runs/first", ""),
        ("predict /runs/first /x /out.csv --workers 2", ""),
        ("explain /runs/first --workers=2", ""),
        ("predict /runs/first /x /out.csv", "--entrypoint-num-cpus 1 --entrypoint-num-gpus 1"),
        ("predict /runs/first /x /out.csv --workers 1", "--entrypoint-num-cpus 1 --entrypoint-num-gpus 1"),
        ("explain /runs/first", "--entrypoint-num-cpus 1 --entrypoint-num-gpus 1"),
        ("evaluate /runs/first", "--entrypoint-num-cpus 1 --entrypoint-num-gpus 1"),
        ("embed /runs/first /x /features", "--entrypoint-num-cpus 1 --entrypoint-num-gpus 1"),
    ],
)
def test_a_command_that_starts_no_workers_runs_on_one(command: str, place: str, tmp_path: Path) -> None:
    """The head may be small and without a GPU: a command with resources of its own is placed on a node that has them."""
    job = read_job(tuple(command.split()), tmp_path, gpus=1)
    by_hand = job.by_hand("http://127.0.0.1:8265")
    assert place in by_hand and ("--entrypoint-num" in by_hand) == bool(place)


class Cluster:
    """A dashboard that takes every job and has one."""

    def __init__(self, address: str) -> None:
        assert "geheim" in address

    def get_version(self) -> str:
        return "4"

    def list_jobs(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(submission_id="first", status="RUNNING", start_time=0, entrypoint="python -m cxr_ray train")
        ]

    def submit_job(self, submission_id: str, **options: object) -> str:
        return submission_id

    def get_job_info(self, name: str) -> SimpleNamespace:
        return self.list_jobs()[0]

    def stop_job(self, name: str) -> bool:
        return True


@pytest.mark.parametrize("address", ["http://me:geheim@10.0.0.1:8265", "http://10.0.0.1:8265/?token=geheim"])
def test_no_secret_of_the_address_or_of_a_command_is_shown(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Cluster)
    start = ["submit", "--address", address, "--working-dir", str(tmp_path)]
    assert main([*start, "--no-wait", "--", *TRAIN]) == 0
    assert main([*start, "--status"]) == main([*start, "--stop", "first"]) == 0
    shown = capsys.readouterr().out
    assert "same as: ray job submit --address" in shown and "***" in shown and "geheim" not in shown
    assert main([*start, "--", "train", "--store", "s3://AKIA:geheim@bucket/x", "--output", "/runs"]) == 2
    shown = capsys.readouterr().err
    assert "a job's command is shown to everyone" in shown and "geheim" not in shown


def test_a_missing_folder_and_a_ray_client_address_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--working-dir", str(tmp_path / "none"), "--", *TRAIN]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert main(["submit", "--status", "--stop", "first"]) == 2  # which is not stopped by a list
    assert "give one of --status, --follow and --stop" in capsys.readouterr().err
    assert main(["submit", "--address", "auto", "--status"]) == 2
    assert "give --address http://HEAD:8265" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "own"),
        (["--name", "mine"], "mine"),
        (["--name", "a run: 1?"], "a-run-1-"),
        (["--resume", "/data/runs/first/"], "first"),
        (["--from", "/data/runs/first"], "own"),
    ],
)
def test_a_job_has_the_name_of_its_run(flags: list[str], name: str, tmp_path: Path) -> None:
    """That of the flag, else that of the config file, which is not overridden."""
    (tmp_path / "own.yaml").write_text("output: /data/runs\nname: own\n")
    words = ("train", *([] if "--resume" in flags else ["-c", "own.yaml"]), *flags)
    job = read_job(words, tmp_path)
    assert job.name.startswith(name) and tuple(job.words) == words


def test_a_folder_that_is_too_large_is_refused_before_it_is_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Ended)
    for name in ("data/blob", "kept/ignored/blob", ".venv/lib/blob"):
        (tmp_path / name).parent.mkdir(parents=True)
        with (tmp_path / name).open("wb") as file:
            file.truncate(100 * 2**20)  # a hole: it takes no space on the disk
    (tmp_path / "kept" / "small").write_bytes(bytes(7))
    (tmp_path / "dangling").symlink_to("nowhere")
    start = ["submit", "--working-dir", str(tmp_path), "--", *TRAIN]
    assert main(start) == 2
    assert f"{tmp_path} has more than the 100 MiB that Ray takes" in capsys.readouterr().err
    (tmp_path / ".gitignore").write_text("/data/\n")
    (tmp_path / "kept" / ".rayignore").write_text("ignored\n")
    assert on_ray.upload_bytes(tmp_path) == 7 + len("/data/\n") + len("ignored\n")
    assert main(start) == 0


class Ended(Cluster):
    """A dashboard whose jobs end well."""

    wrote = "a line"
    started = 0.0

    def __init__(self, address: str) -> None:
        pass

    def get_job_info(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(status="SUCCEEDED", start_time=1000 * self.started)

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        yield f"{self.wrote}\n"


RESULTS = {
    "run: /runs/a\nepoch 1\nrun: /runs/a": ["result: /runs/a"],
    "run: /runs/a-seed-0\nrun: /runs/a-seed-1": ["result: /runs/a-seed-0", "result: /runs/a-seed-1"],
    "page: /runs/s/sweep.html\nsweep: /runs/s": [
        "result: /runs/s/sweep.html",
        "result: /runs/s",
        "to read it here: ray rsync-down cluster.yaml /runs/s/sweep.html sweep.html",
    ],
    "report: /my runs/a/report.html": [
        "result: /my runs/a/report.html",
        "to read it here: ray rsync-down cluster.yaml '/my runs/a/report.html' report.html",
    ],
    "features: s3://x/f (10 rows, 512 features each)": ["result: s3://x/f"],
    "run: runs/a\nthe run: /x\nwarning: run: /y": [],
    "phantom: 9 of 9 patients (100%)\nphantom: /x/phantom": ["result: /x/phantom"],
    "comparison: /runs/compare-a-b.html": [
        "result: /runs/compare-a-b.html",
        "to read it here: ray rsync-down cluster.yaml /runs/compare-a-b.html compare-a-b.html",
    ],
    "predictions: s3://x/out.parquet": ["result: s3://x/out.parquet"],
}


@pytest.mark.parametrize("wrote", RESULTS)
@pytest.mark.parametrize("words", [["--", "evaluate", "/runs/a"], ["--follow", "a"]])
def test_the_end_of_a_job_names_what_its_log_says_that_it_wrote(
    wrote: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Ended)
    monkeypatch.setattr(Ended, "wrote", wrote)
    assert main(["submit", "--working-dir", str(tmp_path), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    ended = next(at for at, line in enumerate(lines) if re.fullmatch(r"job: \S+ succeeded", line))
    assert [line.removesuffix(", on the cluster's storage") for line in lines[ended + 1 :]] == RESULTS[wrote]
    assert not logging.getLogger("ray.dashboard.modules.job.sdk").isEnabledFor(logging.WARNING)  # closed connections


def test_the_next_command_of_a_job_goes_to_the_same_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Ended)
    monkeypatch.setattr(Ended, "wrote", "next: cxr-ray submit -- evaluate /runs/a")
    address, python = ["--address", "http://10.0.0.1:8265"], ["--python", "/env/bin/python"]
    for flags in ([], address, [*address, "--working-dir", str(tmp_path), *python]):
        assert main(["submit", *flags, "--follow", "a"]) == 0
        assert shlex.join(["next:", "cxr-ray", "submit", *flags, "--", "evaluate", "/runs/a"]).replace(
            "'next:'", "next:"
        ) in (capsys.readouterr().out.splitlines())


class Watched(Ended):
    """A dashboard whose user presses Ctrl-C."""

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        raise KeyboardInterrupt
        yield ""


def test_a_detached_job_is_followed_again_by_the_printed_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Watched)
    assert main(["submit", "--address", "http://10.0.0.1:8265", "--working-dir", str(tmp_path), "--follow", "a"]) == 0
    again = capsys.readouterr().out.splitlines()[-1].partition(": cxr-ray ")[2]
    assert f" --working-dir {tmp_path} " in again  # which its next commands need
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Ended)
    assert main(shlex.split(again)) == 0
    assert "job: a succeeded" in capsys.readouterr().out


class Lost(Ended):
    """A dashboard that ends while a job's log is followed."""

    def get_job_info(self, name: str) -> SimpleNamespace:
        raise ConnectionError(
            "HTTPConnectionPool(host='10.0.0.1', port=8265): Max retries exceeded with url: /api/jobs/a (Caused by NewConnectionError("
            "\"HTTPConnection(host='10.0.0.1', port=8265): Failed to establish a new connection: [Errno 111] Connection refused\"))"
        )


def test_a_cluster_that_is_lost_while_a_log_is_followed_does_not_end_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Lost)
    assert main(["submit", "--working-dir", str(tmp_path), "--", *TRAIN, "--name", "a"]) == 2
    shown = capsys.readouterr().err
    assert "the log of the job a broke off, and the job may go on" in shown
    assert "no Ray dashboard answers at http://127.0.0.1:8265 (Connection refused); give" in shown


class Dashboards:
    """Stands in for Ray's client, which prefers the environment to the address that it is given."""

    def __init__(self, address: str) -> None:
        self.address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or address
        self.jobs = {"ended": "SUCCEEDED"}
        if not self.address.startswith("http://10.0.0.1:"):
            raise ConnectionError(f"Failed to connect to Ray at address: {self.address}.")

    def get_version(self) -> str:
        return "4"

    def list_jobs(self) -> list[SimpleNamespace]:
        return []

    def get_job_info(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(status=self.jobs[name])

    def submit_job(self, submission_id: str, **options: object) -> str:
        if submission_id in self.jobs:  # another submit was faster
            raise RuntimeError(
                f"Request failed with status code 400: Job with submission_id {submission_id} already exists."
            )
        return submission_id


@pytest.mark.parametrize("variable", ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_the_address_that_is_given_is_the_one_that_is_used(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop or a job must not reach another cluster than the one that is named."""
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Dashboards)
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "http://10.0.0.1:8265")
    assert on_ray.Jobs().address == "http://10.0.0.1:8265"
    # A port of 4031 is no refused token.
    with pytest.raises(UserError, match=r"no Ray dashboard answers at http://10\.0\.0\.2:4031; give --address"):
        on_ray.Jobs("http://10.0.0.2:4031")
    monkeypatch.setenv(variable, "http://10.0.0.2:8265")
    assert on_ray.Jobs("http://10.0.0.1:8265").address == "http://10.0.0.1:8265"
    assert os.environ[variable] == "http://10.0.0.2:8265"


def test_two_submits_of_one_name_at_once_get_two_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Dashboards)
    assert on_ray.Jobs("http://10.0.0.1:8265").start(on_ray.Job("ended", ("train",), tmp_path)) == "ended-2"


def test_a_job_that_has_ended_is_not_said_to_be_stopping(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Dashboards)
    assert main(["submit", "--address", "http://10.0.0.1:8265", "--stop", "ended"]) == 0
    assert "job: ended has ended already: succeeded" in capsys.readouterr().out


def test_a_result_that_this_machine_sees_is_not_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the head itself, or have the same storage. A file that is older than the job is another one."""
    page = tmp_path / "report.html"
    page.touch()
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Ended)
    monkeypatch.setattr(Ended, "wrote", f"report: {page}")
    started = {"before": page.stat().st_mtime - 9, "after": page.stat().st_mtime + 9}
    monkeypatch.setattr(Ended, "started", started["before"])
    assert main(["submit", "--follow", "a"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"result: {page}"
    monkeypatch.setattr(Ended, "started", started["after"])
    assert main(["submit", "--follow", "a"]) == 0
    result, fetch = capsys.readouterr().out.splitlines()[-2:]
    assert result == f"result: {page}, on the cluster's storage"
    assert fetch == shlex.join(["ray", "rsync-down", "cluster.yaml", str(page), "report.html"]).replace(
        "ray ", "to read it here: ray ", 1
    )


class Without(Ended):
    """A dashboard that has no job of that name."""

    def get_job_info(self, name: str) -> SimpleNamespace:
        raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist.")


@pytest.mark.parametrize("flag", ["--follow", "--stop"])
def test_an_unknown_job_is_no_log_that_broke_off(
    flag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Without)
    assert main(["submit", "--address", "http://10.0.0.1:8265", flag, "frist"]) == 2
    assert capsys.readouterr().err == (
        "cxr-ray: error: no job frist on http://10.0.0.1:8265; `cxr-ray submit --status --address http://10.0.0.1:8265` lists the jobs\n"
    )


def test_lines_of_ray_itself_are_left_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Ended)
    line = "2026-11-27 06:19:51,643\tINFO job_manager.py:581 -- Runtime env is setting up."
    monkeypatch.setattr(Ended, "wrote", f"{line}\nepoch 1 of INFO job_manager.py:581 -- x")
    assert main(["submit", "--follow", "a"]) == 0
    assert capsys.readouterr().out.splitlines() == ["epoch 1 of INFO job_manager.py:581 -- x", "job: a succeeded"]
    assert not logging.getLogger("ray.dashboard.modules.dashboard_sdk").isEnabledFor(logging.INFO)  # names of packages


def test_a_job_that_is_interrupted_while_it_is_submitted_may_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster may have got it, which this machine cannot know."""

    def interrupt(self: Ended, submission_id: str, **options: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(on_ray, "JobSubmissionClient", Ended)
    monkeypatch.setattr(Ended, "submit_job", interrupt)
    address = ["--address", "http://10.0.0.1:8265"]
    assert main(["submit", *address, "--working-dir", str(tmp_path), "--", *TRAIN, "--name", "a"]) == 130
    stop = shlex.join(["cxr-ray", "submit", "--stop", "a", *address])
    assert capsys.readouterr().err == f"cxr-ray: interrupted; the job a may have started all the same: {stop}\n"


def test_a_cluster_without_jobs_has_no_empty_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "JobSubmissionClient", Dashboards)
    assert main(["submit", "--address", "http://10.0.0.1:8265", "--status"]) == 0
    assert capsys.readouterr().out == "no jobs on http://10.0.0.1:8265\n"
