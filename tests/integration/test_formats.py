"""What users have on disk: files of released versions open, evaluate, compare and resume with the numbers that they gave.

`docs/formats.md` is the promise; `fixtures/formats/VERSION` the files, written by that version (`fixtures/formats/make.py`). They are
read by the command line, so that this file knows few modules.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
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

FORMATS = Path(__file__).parents[1] / "fixtures" / "formats"
VERSIONS = sorted(folder.name for folder in FORMATS.iterdir() if folder.is_dir())
PLACE = "/cxr-ray-fixtures"
"""Where the fixtures say that they lie."""
TEXT = (".json", ".yaml", ".csv", ".txt")
NAMES = ("metric", "label", "part", "task", "category", "feature", "method", "trial")
"""Strings that readers look things up by; other strings are prose, which may be worded otherwise."""
CLOSE = 1e-6
"""Largest relative or absolute difference of two numbers that count as equal."""


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Path:
    """The committed files of one version; never written to."""
    return FORMATS / str(request.param)


@pytest.fixture
def home(version: Path, tmp_path: Path) -> Path:
    """A copy of them whose paths are its own."""
    place = tmp_path / "home"
    shutil.copytree(version, place)
    for file in (f for f in place.rglob("*") if f.suffix in TEXT):
        text = file.read_text()
        if PLACE in text:
            file.write_text(text.replace(PLACE, str(place)))
    return place


@pytest.fixture
def expected(version: Path) -> dict[str, Any]:
    """The numbers in short."""
    return read(version / "expected" / "expected.json")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """One, as when the files were made; those of other tests are put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def run(*words: Any, code: int = 0) -> None:
    """One command of `cxr-ray`, which must end with `code`."""
    assert cli.main([str(word) for word in words]) == code, words


def same(old: Any, new: Any, where: str = "") -> None:
    """All that `old` holds is in `new`, with equal numbers; `new` may have further keys, and other prose."""
    if isinstance(old, dict):
        assert isinstance(new, dict) and set(old) <= set(new), f"{where}: lacks {set(old) - set(new)}"
        for key, value in old.items():
            if not isinstance(value, str) or key in NAMES:
                same(value, new[key], f"{where}/{key}")
    elif isinstance(old, list):
        assert isinstance(new, list) and len(old) == len(new), f"{where}: {len(old)} entries, now {new!r:.100}"
        for at, (one, other) in enumerate(zip(old, new, strict=True)):
            same(one, other, f"{where}[{at}]")
    elif isinstance(old, float) and isinstance(new, int | float):
        assert math.isclose(old, new, rel_tol=CLOSE, abs_tol=CLOSE), f"{where}: was {old}, is {new}"
    else:
        assert old == new, f"{where}: was {old!r}, is {new!r}"


def values(file: Path) -> dict[str, list[float]]:
    """METRIC/LABEL of an evaluation: the value and, where there is one, its interval."""
    rows = read(file)["values"]
    return {f"{v['metric']}/{v['label']}": [v[k] for k in ("value", "low", "high") if k in v] for v in rows}


def same_tables(old: Path, new: Path) -> None:
    """Two Parquet or CSV tables: the same rows, and every column of `old`."""
    load: Callable[[Path], pd.DataFrame] = pd.read_parquet if old.suffix == ".parquet" else pd.read_csv
    before, now = load(old), load(new)
    pd.testing.assert_frame_equal(before, now[list(before.columns)], check_dtype=False, rtol=CLOSE, atol=CLOSE)


def same_weights(old: Path, new: Path) -> None:
    """Two safetensors files: the same names, the same header keys, the same numbers."""
    with safe_open(old, framework="pt") as a, safe_open(new, framework="pt") as b:
        assert set(a.keys()) == set(b.keys()) and a.metadata()["format"] == b.metadata()["format"]
        same(json.loads(a.metadata()["cxr_ray"]), json.loads(b.metadata()["cxr_ray"]), new.name)
        for name in a.keys():  # noqa: SIM118 - not a mapping
            torch.testing.assert_close(b.get_tensor(name), a.get_tensor(name), rtol=CLOSE, atol=CLOSE)


# Stores


def test_a_store_verifies_and_gives_the_same_pixels(home: Path, expected: dict[str, Any]) -> None:
    for name, said in expected["stores"].items():
        run("verify", home / "stores" / name)
        store = stores.open(home / "stores" / name)
        images = store.images(said["asked"])
        digest = hashlib.sha256(images.tobytes()).hexdigest()
        assert (str(images.dtype), list(images.shape), digest) == (said["type"], said["shape"], said["sha256"])
        assert (len(store), store.fingerprint) == (said["rows"], said["fingerprint"])
        assert len(store.index) == said["rows"] and list(store.rejected().columns) == ["row", "image", "reason"]
    assert store.boxes() is not None


def test_a_store_whose_bytes_changed_is_found_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    """From the model: its predictions are deleted first, those of the baselines are not (a solver fits them)."""
    folder = home / "runs" / name
    before = {p: folder / "predictions" / f"{p}.parquet" for p in ("val", "test")}
    for table in before.values():
        table.rename(table.with_suffix(".before.parquet"))
    looks = read(folder / "run.json")["test_looks"]
    run("evaluate", folder, "--split", part)
    for table in (before["val"], before[part]):
        same_tables(table.with_suffix(".before.parquet"), table)
    same(expected["evaluations"][f"{name}/evaluation-{part}.json"], values(folder / f"evaluation-{part}.json"), name)
    assert read(folder / "run.json")["test_looks"] == looks + (part == "test")


@pytest.mark.parametrize("name", ["first-seed-0", "classes"])
def test_an_evaluation_of_predictions_on_disk_is_the_same_file(
    name: str, version: Path, home: Path, expected: dict[str, Any]
) -> None:
    file = home / "runs" / name / "evaluation-test.json"
    before = read(file)
    run("evaluate", file.parent, "--split", "test")
    same(before, read(file), name)
    for also in ("thresholds.json", "calibration.json"):
        if (version / "runs" / name / also).exists():
            same(read(version / "runs" / name / also), read(file.parent / also), also)
    table = pd.read_parquet(file.parent / "predictions" / "test.parquet").iloc[:3]
    same(expected["predictions"][name], json.loads(table.to_json(orient="records", double_precision=15)), name)


def test_a_run_evaluates_by_study_and_on_other_data(home: Path, expected: dict[str, Any]) -> None:
    folder = home / "runs" / "first-seed-0"
    run("evaluate", folder, "--split", "test", "--by", "study")
    run("evaluate", folder, "--data", home / "stores" / "phantom-16")
    for file in ("evaluation-test-by-study.json", "external/phantom-16/evaluation.json"):
        same(expected["evaluations"][f"first-seed-0/{file}"], values(folder / file), file)


def test_runs_compare(version: Path, home: Path, tmp_path: Path) -> None:
    for second, name in (("first-seed-1", "seeds"), ("both", "both")):
        run("compare", home / "runs" / "first-seed-0", home / "runs" / second, "--out", tmp_path / f"{name}.html")
        same(read(version / "expected" / f"{name}.json"), read(tmp_path / f"{name}.json"), name)


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
"""Within an epoch; between the end of an epoch and its evaluation."""


def resume(version: Path, folder: Path, *words: Any) -> None:
    """Resume the run by `train WORDS`: it does the steps that are left, and no others."""
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    whole = version / "expected" / folder.name
    last = read(folder / "checkpoints" / "last.json")["checkpoint"]
    done = read(folder / "checkpoints" / last / "state.json")["state"]["step"]
    hook = register_optimizer_step_post_hook(count)
    try:
        run("train", *words)
    finally:
        hook.remove()
    assert done > 0 and done + steps == pd.read_csv(whole / "metrics.csv")["step"].max()
    assert read(folder / "run.json")["status"] == "finished"


def ends_as(whole: Path, folder: Path) -> None:
    """The run is what the training came to that nobody stopped."""
    same_tables(whole / "metrics.csv", folder / "metrics.csv")
    same_tables(whole / "val.parquet", folder / "predictions" / "val.parquet")
    same_weights(whole / "model.safetensors", folder / "model.safetensors")


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_resumes(name: str, version: Path, home: Path) -> None:
    folder = home / "runs" / name
    resume(version, folder, "--resume", folder)
    ends_as(version / "expected" / name, folder)


def defaults(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Every setting at its default, as `cxr-ray config` writes it."""
    capsys.readouterr()
    run("config")
    body: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return body


def without(body: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """A config without what is at its default: as if it was written before those settings existed."""
    out = {}
    for key, value in body.items():
        if isinstance(value, dict) and isinstance(usual[key], dict) and usual[key]:
            out[key] = without(value, usual[key])
        elif value != usual[key]:
            out[key] = value
    return {key: value for key, value in out.items() if value != {}}


def thin(folder: Path, usual: dict[str, Any]) -> None:
    """Leave only what differs from the defaults in every config.yaml below a folder."""
    for file in folder.rglob("config.yaml"):
        body = yaml.safe_load(file.read_text())
        thinned = without(body, usual)
        assert len(str(thinned)) < len(str(body)) / 2
        file.write_text(yaml.safe_dump(thinned))


@pytest.mark.parametrize("name", STOPPED)
def test_a_config_from_before_a_setting_resumes(
    name: str, version: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "runs" / name
    thin(folder, defaults(capsys))
    resume(version, folder, "--resume", folder)
    ends_as(version / "expected" / name, folder)


def test_the_same_name_resumes_whichever_of_two_configs_lacks_a_setting(
    version: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = defaults(capsys)
    for name, thinned_one in zip(STOPPED, (True, False), strict=True):
        folder = home / "runs" / name
        whole = shutil.copy(folder / "config.yaml", tmp_path / "whole.yaml")
        thin(folder, usual)
        short = shutil.copy(folder / "config.yaml", tmp_path / "short.yaml")
        shutil.copy(whole if thinned_one else short, folder / "config.yaml")
        resume(version, folder, "-c", short if thinned_one else whole)
        ends_as(version / "expected" / name, folder)


def test_another_value_of_a_setting_is_still_another_config(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "runs" / "stopped-adam"
    thin(folder, defaults(capsys))
    run("train", "-c", folder / "config.yaml", "--optim.decay_norms", "false", code=2)
    assert "optim.decay_norms" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_resumes_in_the_precision_that_it_recorded(precision: str, version: Path, home: Path) -> None:
    """`auto` is resolved once, where the run first started. Of these two, any machine would choose one alone."""
    folder = home / "runs" / "stopped-sgd"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["train"]["precision"] = "auto"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    info = read(folder / "run.json")
    assert info["precision"] == "fp32"
    (folder / "run.json").write_text(json.dumps({**info, "precision": precision}))
    resume(version, folder, "--resume", folder)
    assert read(folder / "run.json")["precision"] == precision
    with safe_open(folder / "model.safetensors", framework="pt") as held:
        assert json.loads(held.metadata()["cxr_ray"])["precision"] == precision
    if precision == "fp32":
        ends_as(version / "expected" / folder.name, folder)


def test_auto_is_recorded_at_the_first_start(home: Path) -> None:
    """Not at the end alone: a training that is killed ends without a word."""
    seen: list[Any] = []
    folder = home / "runs" / "new"

    def look(*_: Any) -> None:
        seen.append(read(folder / "run.json").get("precision"))

    hook = register_optimizer_step_post_hook(look)
    try:
        words = ["--train.precision", "auto", "--train.epochs", 1, "--name", "new"]
        run("train", "-c", home / "runs" / "stopped-sgd" / "config.yaml", *words)
    finally:
        hook.remove()
    assert set(seen) == {read(folder / "run.json")["precision"]} and seen[0] in ("fp32", "bf16")


# Sweeps


def sweep_is(folder: Path, said: dict[str, Any]) -> None:
    """Trials, their ranking, the best, and what its lead is worth."""
    opened = sweeps.load(folder)
    ranked = [[[t.name for t in one.trials], list(one.values)] for one in opened.ranked()]
    same(said["ranked"], ranked, "ranked")
    info = read(folder / "sweep.json")
    assert (info["status"], info["best"]) == ("finished", said["best"])
    same(said["worth"], info["worth"], "worth")
    assert opened.test_looks == said["test_looks"]


@pytest.mark.parametrize("thinned", [False, True])
def test_a_finished_sweep_stays_as_it_is(
    thinned: bool, version: Path, home: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "runs" / "sweep"
    if thinned:
        thin(folder, defaults(capsys))
    before = {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.suffix in (".safetensors", ".csv")
    }
    sweep_is(folder, expected["sweeps"]["sweep"])
    run("tune", "--resume", folder)
    sweep_is(folder, expected["sweeps"]["sweep"])
    same(read(version / "runs" / "sweep" / "trials.json"), read(folder / "trials.json"), "trials.json")
    same_tables(version / "runs" / "sweep" / "sweep.csv", folder / "sweep.csv")
    after = {name: (folder / name).read_bytes() for name in before if name != "sweep.csv"}
    assert after == {name: body for name, body in before.items() if name != "sweep.csv"}
    run("runs", folder / "trials")
    printed = capsys.readouterr().out
    assert all(trial["name"] in printed for trial in read(folder / "trials.json"))


def test_another_value_of_a_setting_is_another_sweep(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "runs" / "sweep"
    thin(folder, defaults(capsys))
    run("tune", "--resume", folder, "--optim.decay_norms", "false", code=2)
    assert "optim.decay_norms" in capsys.readouterr().err


def test_a_stopped_sweep_resumes(
    home: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str], ray_local: None
) -> None:
    """By configs from before most settings existed."""
    folder = home / "runs" / "sweep-stopped"
    thin(folder, defaults(capsys))
    ended = {f: f.read_bytes() for f in folder.glob("trials/0000-*/metrics.csv")}
    assert len(ended) == 2
    run("tune", "--resume", folder)
    assert {f: f.read_bytes() for f in ended} == ended  # what had ended is not trained again
    sweep_is(folder, expected["sweeps"]["sweep-stopped"])
    name = "sweep-stopped/best/evaluation-test.json"
    same(expected["evaluations"][name], values(home / "runs" / name), name)


# The fixtures themselves


def test_no_file_names_the_machine_that_it_was_made_on(version: Path) -> None:
    for file in (f for f in version.rglob("*") if f.is_file()):
        body = file.read_bytes()
        assert b"/tmp" not in body and b"/home/" not in body and b"/work" not in body, file
        assert file.stat().st_size < 200_000, file
    assert sum(f.stat().st_size for f in version.rglob("*") if f.is_file()) < 5_000_000


def test_fixtures_were_computed_in_fp32_by_their_version(version: Path) -> None:
    configs = [yaml.safe_load(f.read_text()) for f in version.rglob("config.yaml")]
    assert {(c["train"]["precision"], c["train"]["threads"]) for c in configs} == {("fp32", 1)}
    said = {read(f)["versions"]["cxr_ray"] for f in version.rglob("environment.json")}
    assert said == {version.name}
    assert all(
        np.isfinite(v).all()
        for rows in read(version / "expected" / "expected.json")["evaluations"].values()
        for v in rows.values()
    )
