"""`cxr-ray doctor`: exit code 0 without problems, 2 with a fix for each problem."""

from pathlib import Path

import pytest

from cxr_ray import cli
from cxr_ray.cli.commands import doctor


def test_this_machine_can_run_the_tests(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["doctor", "--output", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "no problems found" in shown
    for what in ("python", "torch", "ray", "cores", "memory", "bf16", "GPU", "/tmp"):
        assert what in shown
    assert not (tmp_path / "runs").exists()  # the check creates nothing


def test_a_problem_is_printed_with_its_fix(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert cli.main(["doctor", "--output", str(tmp_path / "file" / "runs")]) == 2
    shown = capsys.readouterr().out
    assert "!!" in shown
    assert "is a file: choose another --output" in shown
    assert "1 to fix, then: cxr-ray doctor" in shown


def test_missing_packages_and_the_missing_extra_of_ray_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pip install" in doctor.version("no-such-package-at-all").fix
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "aiohttp" else real(name))
    problems = [finding for finding in doctor.software() if finding.fix]
    assert [finding.found for finding in problems] == ["missing aiohttp"]
    assert "default" in problems[0].fix


def test_a_missing_optional_package_is_not_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "OPTIONAL", {"no-such-package-at-all": "report.trackers: [mlflow] needs it", "pandas": "tables"}
    )
    found = {finding.what: finding for finding in doctor.software()}
    assert (
        found["no-such-package-at-all"].found.startswith("not installed. report.trackers")
        and not found["no-such-package-at-all"].fix
    )
    assert found["pandas"].found[0].isdigit()


def test_token_and_authentication_mode_must_agree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fix(**environment: str) -> str:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return next(finding.fix for finding in doctor.cluster() if finding.what == "ray token")

    assert fix() == ""
    assert "get-auth-token" in fix(RAY_AUTH_MODE="token")
    assert fix(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="x" * 32) == ""
    assert "RAY_AUTH_MODE=token" in fix(RAY_ADDRESS="auto", RAY_AUTH_TOKEN="x" * 32)
