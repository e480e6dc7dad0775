"""Compatibility of files on disk: those of released versions open, evaluate, compare and resume with the same numbers.

`docs/reference/formats.md` is the specification. `fixtures/formats/VERSION` has files written by that version (`fixtures/formats/make.py`).
The tests use the command line, so that this file depends on few modules.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors import safe_open
from torch.optim.optimizer import register_optimizer_step_post_hook

from cxr_ray import cli
from cxr_ray.data import store as stores
from cxr_ray.tuning import sweep as sweeps
from tests.integration.same_files import TEXT, assert_same, assert_same_tables, assert_same_weights, read, values

FORMATS = Path(__file__).parents[1] / "fixtures" / "formats"
VERSIONS = sorted(folder.name for folder in FORMATS.iterdir() if folder.is_dir())
PLACE = "/cxr-ray-fixtures"
"""The folder of the fixtures according to the paths in them."""


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Path:
    """The committed files of one version; read only."""
    return FORMATS / str(request.param)


@pytest.fixture
def home(version: Path, tmp_path: Path) -> Path:
    """A copy of them with the paths of the copy."""
    folder = tmp_path / "home"
    shutil.copytree(version, folder)
    for file in (f for f in folder.rglob("*") if f.suffix in TEXT):
        text = file.read_text()
        if PLACE in text:
            file.write_text(text.replace(PLACE, str(folder)))
    return folder


@pytest.fixture
def expected(version: Path) -> dict[str, Any]:
    """The expected numbers."""
    return read(version / "expected" / "expected.json")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """One thread, as when the files were made. Restored afterwards for other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(*words: Any, code: int = 0) -> None:
    """Run one command of `cxr-ray`, which must exit with `code`."""
    assert cli.main([str(word) for word in words]) == code, words


# Stores


def test_a_store_verifies_and_has_the_same_pixels(home: Path, expected: dict[str, Any]) -> None:
    for name, want in expected["stores"].items():
        run("verify", home / "stores" / name)
        store = stores.open(home / "stores" / name)
        images = store.images(want["asked"])
        digest = hashlib.sha256(images.tobytes()).hexdigest()
        assert (str(images.dtype), list(images.shape), digest) == (want["type"], want["shape"], want["sha256"])
        assert (len(store), store.fingerprint) == (want["rows"], want["fingerprint"])
        assert len(store.index) == want["rows"] and list(store.rejected().columns) == ["row", "image", "reason"]
    assert store.boxes() is not None


@pytest.mark.parametrize("depth", [8, 16])
def test_the_same_ingest_over_a_store_of_an_earlier_version_is_complete(
    depth: int, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notes and descriptions of filters may be worded differently today; everything else must be the same."""
    store, command = home / "stores" / f"phantom-{depth}", ["ingest", "phantom", tmp_path / "raw"]
    run("phantom", tmp_path / "raw", "--patients", 44, "--size", 64, "--seed", 1)
    before = (store / "manifest.json").read_bytes()
    run(*command, store, "--size", 32, "--depth", depth)
    assert (store / "manifest.json").read_bytes() == before
    capsys.readouterr()
    run(*command, store, "--size", 24, "--depth", depth, code=2)
    assert "a store of other records or settings" in capsys.readouterr().err


def test_changed_bytes_of_a_store_are_detected(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next((home / "stores" / "phantom-8").glob("*.arrow"))
    body = bytearray(file.read_bytes())
    body[-2000] ^= 1
    file.write_bytes(bytes(body))
    run("verify", home / "stores" / "phantom-8", code=2)
    assert file.name in capsys.readouterr().err


# Finished runs, ensembles

EVALUATED = [
    (folder, part)
    for folder, parts in {
        "first-seed-0": ("val", "test"), "first-seed-1": ("test",), "classes": ("val", "test"), "both": ("val", "test"),
        "sweep/best": ("test",), "sweep/ensemble": ("test",), "sweep/folds/ensemble": ("test",),
    }.items()
    for part in parts
]  # fmt: skip


@pytest.mark.parametrize(("name", "part"), EVALUATED)
def test_a_run_evaluates(name: str, part: str, home: Path, expected: dict[str, Any]) -> None:
    """From the model: its predictions are removed first, but not those of the baselines, which a solver fits."""
    folder = home / "runs" / name
    before = {p: folder / "predictions" / f"{p}.parquet" for p in ("val", "test")}
    for table in before.values():
        table.rename(table.with_suffix(".before.parquet"))
    count = read(folder / "run.json")["test_looks"]
    run("evaluate", folder, "--split", part)
    for table in (before["val"], before[part]):
        assert_same_tables(table.with_suffix(".before.parquet"), table)
    assert_same(
        expected["evaluations"][f"{name}/evaluation-{part}.json"], values(folder / f"evaluation-{part}.json"), name
    )
    assert read(folder / "run.json")["test_looks"] == count + (part == "test")


@pytest.mark.parametrize("name", ["first-seed-0", "classes"])
def test_an_evaluation_of_predictions_on_disk_is_the_same_file(
    name: str, version: Path, home: Path, expected: dict[str, Any]
) -> None:
    file = home / "runs" / name / "evaluation-test.json"
    before = read(file)
    if before["task"] == "multiclass":
        assert before.pop("at_recall") == []  # classes had no operating points in 0.1.0
    run("evaluate", file.parent, "--split", "test")
    assert_same(before, read(file), name)
    for also in ("thresholds.json", "calibration.json"):
        if (version / "runs" / name / also).exists():
            assert_same(read(version / "runs" / name / also), read(file.parent / also), also)
    table = pd.read_parquet(file.parent / "predictions" / "test.parquet").iloc[:3]
    assert_same(expected["predictions"][name], json.loads(table.to_json(orient="records", double_precision=15)), name)


def test_a_run_evaluates_by_study_and_on_other_data(home: Path, expected: dict[str, Any]) -> None:
    folder = home / "runs" / "first-seed-0"
    run("evaluate", folder, "--split", "test", "--by", "study")
    run("evaluate", folder, "--data", home / "stores" / "phantom-16")
    for file in ("evaluation-test-by-study.json", "external/phantom-16/evaluation.json"):
        assert_same(expected["evaluations"][f"first-seed-0/{file}"], values(folder / file), file)


def test_runs_compare(version: Path, home: Path, tmp_path: Path) -> None:
    for second, name in (("first-seed-1", "seeds"), ("both", "both")):
        run("compare", home / "runs" / "first-seed-0", home / "runs" / second, "--out", tmp_path / f"{name}.html")
        assert_same(read(version / "expected" / f"{name}.json"), read(tmp_path / f"{name}.json"), name)


def test_runs_are_listed_and_shown(
    home: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    for name, status in expected["status"].items():
        assert read(home / "runs" / name / "run.json")["status"] == status
    run("runs", home / "runs")
    printed = capsys.readouterr().out
    assert all(name in printed for name in expected["status"] if "/" not in name)
    for name in ("first-seed-0", "classes", "both", "stopped-adam", "sweep/best"):
        run("show", home / "runs" / name)
        printed = capsys.readouterr().out
        if found := expected["evaluations"].get(f"{name}/evaluation-val.json"):
            assert f"{found['auroc/mean'][0]:.3f}" in printed


def test_a_finished_run_is_not_trained_again(home: Path) -> None:
    folder = home / "runs" / "first-seed-0"
    before = (folder / "run.json").read_bytes()
    run("train", "--resume", folder, code=2)
    assert (folder / "run.json").read_bytes() == before


# Runs that were stopped

STOPPED = ("stopped-adam", "stopped-sgd")
"""One stopped within an epoch, the other between the end of an epoch and its evaluation."""


def resume(version: Path, folder: Path, *words: Any) -> None:
    """Resume the run by `train WORDS`: it does the remaining steps, and no others."""
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    uninterrupted = version / "expected" / folder.name
    last = read(folder / "checkpoints" / "last.json")["checkpoint"]
    done = read(folder / "checkpoints" / last / "state.json")["state"]["step"]
    hook = register_optimizer_step_post_hook(count)
    try:
        run("train", *words)
    finally:
        hook.remove()
    assert done > 0 and done + steps == pd.read_csv(uninterrupted / "metrics.csv")["step"].max()
    assert read(folder / "run.json")["status"] == "finished"


def assert_ends_as(uninterrupted: Path, folder: Path) -> None:
    """The run has the results of the uninterrupted training."""
    assert_same_tables(uninterrupted / "metrics.csv", folder / "metrics.csv")
    assert_same_tables(uninterrupted / "val.parquet", folder / "predictions" / "val.parquet")
    assert_same_weights(uninterrupted / "model.safetensors", folder / "model.safetensors")


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_resumes(name: str, version: Path, home: Path) -> None:
    folder = home / "runs" / name
    resume(version, folder, "--resume", folder)
    assert_ends_as(version / "expected" / name, folder)


def defaults(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """All settings with their defaults, as `cxr-ray config` prints them."""
    capsys.readouterr()
    run("config")
    body: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return body


def without_defaults(body: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """A config without settings at their defaults, as if it had been written before those settings existed."""
    out = {}
    for key, value in body.items():
        if isinstance(value, dict) and isinstance(default[key], dict) and default[key]:
            out[key] = without_defaults(value, default[key])
        elif value != default[key]:
            out[key] = value
    return {key: value for key, value in out.items() if value != {}}


def strip_defaults(folder: Path, default: dict[str, Any]) -> None:
    """Remove settings at their defaults from every config.yaml below a folder."""
    for file in folder.rglob("config.yaml"):
        body = yaml.safe_load(file.read_text())
        stripped = without_defaults(body, default)
        assert len(str(stripped)) < len(str(body)) / 2
        file.write_text(yaml.safe_dump(stripped))


@pytest.mark.parametrize("name", STOPPED)
def test_a_config_without_newer_settings_resumes(
    name: str, version: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "runs" / name
    strip_defaults(folder, defaults(capsys))
    resume(version, folder, "--resume", folder)
    assert_ends_as(version / "expected" / name, folder)


def test_a_run_resumes_by_name_if_one_of_the_two_configs_lacks_settings(
    version: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    default = defaults(capsys)
    for name, strip_folder in zip(STOPPED, (True, False), strict=True):
        folder = home / "runs" / name
        full = shutil.copy(folder / "config.yaml", tmp_path / "full.yaml")
        strip_defaults(folder, default)
        short = shutil.copy(folder / "config.yaml", tmp_path / "short.yaml")
        shutil.copy(full if strip_folder else short, folder / "config.yaml")
        resume(version, folder, "-c", short if strip_folder else full)
        assert_ends_as(version / "expected" / name, folder)


def test_a_changed_setting_is_still_a_different_config(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "runs" / "stopped-adam"
    strip_defaults(folder, defaults(capsys))
    run("train", "-c", folder / "config.yaml", "--optim.decay_norms", "false", code=2)
    assert "optim.decay_norms" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_resumes_in_the_precision_that_it_recorded(precision: str, version: Path, home: Path) -> None:
    """`auto` is resolved only once, at the first start. Any machine would choose only one of these two."""
    folder = home / "runs" / "stopped-sgd"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["train"]["precision"] = "auto"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    info = read(folder / "run.json")
    assert info["precision"] == "fp32"
    (folder / "run.json").write_text(json.dumps({**info, "precision": precision}))
    resume(version, folder, "--resume", folder)
    assert read(folder / "run.json")["precision"] == precision
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["cxr_ray"])["precision"] == precision
    if precision == "fp32":
        assert_ends_as(version / "expected" / folder.name, folder)


def test_auto_is_recorded_at_the_first_start(home: Path) -> None:
    """Not only at the end, because a killed training writes nothing at its end."""
    seen: list[Any] = []
    folder = home / "runs" / "new"

    def record(*_: Any) -> None:
        seen.append(read(folder / "run.json").get("precision"))

    hook = register_optimizer_step_post_hook(record)
    try:
        words = ["--train.precision", "auto", "--train.epochs", 1, "--name", "new"]
        run("train", "-c", home / "runs" / "stopped-sgd" / "config.yaml", *words)
    finally:
        hook.remove()
    assert set(seen) == {read(folder / "run.json")["precision"]} and seen[0] in ("fp32", "bf16")


# Sweeps


def assert_sweep(folder: Path, want: dict[str, Any]) -> None:
    """The ranking of the trials, the winner, and its comparison with others."""
    opened = sweeps.load(folder)
    ranked = [[[t.name for t in one.trials], list(one.values)] for one in opened.ranked()]
    assert_same(want["ranked"], ranked, "ranked")
    info = read(folder / "sweep.json")
    assert (info["status"], info["best"]) == ("finished", want["best"])
    assert_same(want["worth"], info["worth"], "worth")
    assert opened.test_evaluations == want["test_looks"]


@pytest.mark.parametrize("stripped", [False, True])
def test_a_finished_sweep_does_not_change(
    stripped: bool, version: Path, home: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "runs" / "sweep"
    if stripped:
        strip_defaults(folder, defaults(capsys))
    before = {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.suffix in (".safetensors", ".csv")
    }
    assert_sweep(folder, expected["sweeps"]["sweep"])
    run("tune", "--resume", folder)
    assert_sweep(folder, expected["sweeps"]["sweep"])
    assert_same(read(version / "runs" / "sweep" / "trials.json"), read(folder / "trials.json"), "trials.json")
    assert_same_tables(version / "runs" / "sweep" / "sweep.csv", folder / "sweep.csv")
    after = {name: (folder / name).read_bytes() for name in before if name != "sweep.csv"}
    assert after == {name: body for name, body in before.items() if name != "sweep.csv"}
    run("runs", folder / "trials")
    printed = capsys.readouterr().out
    assert all(trial["name"] in printed for trial in read(folder / "trials.json"))


def test_a_changed_setting_is_a_different_sweep(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "runs" / "sweep"
    strip_defaults(folder, defaults(capsys))
    run("tune", "--resume", folder, "--optim.decay_norms", "false", code=2)
    assert "optim.decay_norms" in capsys.readouterr().err


def test_a_stopped_sweep_resumes(
    home: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str], ray_local: None
) -> None:
    """With configs that lack most settings."""
    folder = home / "runs" / "sweep-stopped"
    strip_defaults(folder, defaults(capsys))
    ended = {f: f.read_bytes() for f in folder.glob("trials/0000-*/metrics.csv")}
    assert len(ended) == 2
    run("tune", "--resume", folder)
    assert {f: f.read_bytes() for f in ended} == ended  # ended trials are not trained again
    assert_sweep(folder, expected["sweeps"]["sweep-stopped"])
    name = "sweep-stopped/best/evaluation-test.json"
    assert_same(expected["evaluations"][name], values(home / "runs" / name), name)


# The fixtures themselves


def test_no_file_names_the_machine_on_which_it_was_made(version: Path) -> None:
    for file in (f for f in version.rglob("*") if f.is_file()):
        body = file.read_bytes()
        assert b"/tmp" not in body and b"/home/" not in body and b"/work" not in body, file
        assert file.stat().st_size < 200_000, file
    assert sum(f.stat().st_size for f in version.rglob("*") if f.is_file()) < 5_000_000


def test_fixtures_were_computed_in_fp32_by_their_version(version: Path) -> None:
    configs = [yaml.safe_load(f.read_text()) for f in version.rglob("config.yaml")]
    assert {(c["train"]["precision"], c["train"]["threads"]) for c in configs} == {("fp32", 1)}
    versions = {read(f)["versions"]["cxr_ray"] for f in version.rglob("environment.json")}
    assert versions == {version.name}
    assert all(
        np.isfinite(v).all()
        for rows in read(version / "expected" / "expected.json")["evaluations"].values()
        for v in rows.values()
    )
