"""jobs/: the commands for `ray job submit`, where the package is not installed but in the same folder as jobs/."""

import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ray.cli.commands.submit import read_job

ROOT = Path(__file__).resolve().parents[2]
JOBS = ("embed", "evaluate", "explain", "ingest", "predict", "serve", "train", "tune")


def job(name: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a job's script as a Ray job does: by its path, from the working directory, without -P or -I."""
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *args], capture_output=True, text=True, cwd=cwd
    )


def test_there_is_a_job_per_command() -> None:
    assert sorted(path.stem for path in (ROOT / "jobs").glob("*.py")) == sorted(JOBS)
    for path in (ROOT / "jobs").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 20  # a job is a thin wrapper


def test_jobs_that_start_no_workers_are_submitted_to_one() -> None:
    """By the lines at their heads, as `cxr-ray submit` places them; the others start workers from the head."""
    for path in (ROOT / "jobs").glob("*.py"):
        line = path.read_text(encoding="utf-8").partition("`ray job submit ")[2].partition("`")[0]
        options, _, command = line.partition(" -- ")
        job = read_job((path.stem, "/runs/first", "--output", "/runs"), ROOT)
        assert command.startswith(f"python jobs/{path.name}")
        assert ("--entrypoint-num-cpus 1" in options) == (job.cpus == 1.0), path.name


@pytest.mark.parametrize("name", JOBS)
def test_help_is_that_of_the_command(name: str, tmp_path: Path) -> None:
    out = job(name, "--help", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert f"cxr-ray {name}" in out.stdout


def test_the_package_next_to_jobs_is_found_without_an_installation(tmp_path: Path) -> None:
    """A working directory is uploaded to any place; the copy next to the script must be the one that runs."""
    import shutil

    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    shutil.copytree(ROOT / "cxr_ray", tmp_path / "cxr_ray", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import runpy, sys; sys.argv = ['train', '--version']; runpy.run_path({str(tmp_path / 'jobs' / 'train.py')!r}); import cxr_ray; print(cxr_ray.__file__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert Path(out.stdout.splitlines()[-1]).is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("train", ["-c", "preset:dmo"], "did you mean 'demo'"),
        ("train", ["-c", "CONFIG"], "optim.lr"),
        ("evaluate", ["run", "--thresholds", "Edema=2"], "from 0 to 1"),
    ],
)
def test_a_wrong_config_fails_the_job_with_one_line(name: str, args: list[str], message: str, tmp_path: Path) -> None:
    """The exit code marks a job as failed; the end of its log is all that the user sees."""
    (tmp_path / "c.yaml").write_text("optim: {lr: fast}\n", encoding="utf-8")
    out = job(name, *[str(tmp_path / "c.yaml") if arg == "CONFIG" else arg for arg in args], cwd=tmp_path)
    assert out.returncode == 2
    assert out.stderr.count("\n") == 1
    assert out.stderr.startswith("cxr-ray: error: ")
    assert message in out.stderr
