"""`cxr-ray submit` without a cluster: what it refuses before anything is uploaded. With one: tests/integration/test_submit.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from cxr_ray.cli import main
from cxr_ray.cli.commands.submit import read_job
from cxr_ray.on_ray import submit as on_ray

TRAIN = ["train", "--store", "/data/x", "--output", "/data/runs"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the command after --"),
        (["trian"], "did you mean 'train'"),
        (["submit", "--", "train"], "unknown command"),
        (["train", "--store", "/data/x"], "needs --output with an absolute path"),
        (["tune", "-c", "c.yaml"], "needs --output with an absolute path"),
        (["train", "--store", "shards/x", "--output", "/data/runs"], "shards/x is a relative path"),
        (["train", "--store=shards/x", "--output", "/data/runs"], "shards/x is a relative path"),
        (["train", "--store", "/data/x", "--output", "runs/here"], "runs/here is a relative path"),
        (["evaluate", "runs/first"], "runs/first is a relative path"),
        (["ingest", "nih", "folder", "/data/out"], "folder is a relative path"),
    ],
)
def test_what_would_fail_on_the_cluster_is_refused_here(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    assert main(["submit", "--working-dir", str(tmp_path), "--", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        TRAIN,
        ["train", "-c", "configs/missing/here.yaml", "--output", "s3://ours/runs"],
        [
            "ingest",
            "table",
            "/data",
            "/out",
            "--table",
            "films.csv",
            "--values",
            "{Y: 1}",
            "--patient-regex",
            "^(p/[0-9]+)_",
        ],
        ["evaluate", "/data/runs/first", "--thresholds", "recall=0.9"],
        ["train", "--resume", "/data/runs/first"],
    ],
)
def test_what_may_work_gets_as_far_as_the_cluster(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "films.csv").touch()
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

    def stop_job(self, name: str) -> None:
        pass


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
    assert main(["submit", "--address", "auto", "--status"]) == 2
    assert "give --address http://HEAD:8265" in capsys.readouterr().err
