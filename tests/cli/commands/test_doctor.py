"""doctor: nothing wrong is 0, something wrong is 2 with its mend."""

from pathlib import Path

import pytest

from cxr_ray import cli
from cxr_ray.cli.commands import doctor


def test_this_machine_can_run_the_tests(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["doctor", "--output", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "nothing is wrong" in shown
    for what in ("python", "torch", "ray", "cores", "memory", "bf16", "GPU", "/tmp"):
        assert what in shown
    assert not (tmp_path / "runs").exists()  # looking makes nothing


def test_a_problem_is_told_with_its_mend(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert cli.main(["doctor", "--output", str(tmp_path / "file" / "runs")]) == 2
    shown = capsys.readouterr().out
    assert "!!" in shown
    assert "is a file: choose another --output" in shown


def test_missing_packages_and_the_missing_extra_of_ray_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pip install" in doctor.version("no-such-package-at-all").fix
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "aiohttp" else real(name))
    wrong = [finding for finding in doctor.software() if finding.fix]
    assert [finding.found for finding in wrong] == ["missing aiohttp"]
    assert "default" in wrong[0].fix


def test_what_a_training_does_without_is_told_and_is_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "OPTIONAL", {"no-such-package-at-all": "report.trackers: [mlflow] needs it", "pandas": "tables"}
    )
    found = {finding.what: finding for finding in doctor.software()}
    assert (
        found["no-such-package-at-all"].found.startswith("not installed. report.trackers")
        and not found["no-such-package-at-all"].fix
    )
    assert found["pandas"].found[0].isdigit()


def test_the_token_and_the_mode_must_go_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
