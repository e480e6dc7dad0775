"""The notebooks in `docs/tutorials/`: they run from top to bottom as they are, with no import but cxr_ray, torch and numpy."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
NOTEBOOK = ROOT / "docs" / "tutorials" / "first_steps.py"
MAPS = ROOT / "docs" / "tutorials" / "can_i_trust_these_maps.py"
TEXT = NOTEBOOK.read_text(encoding="utf-8")
SHOWN = {"ingest", "create_model", "train", "evaluate", "tune", "compare", "make_ensemble", "load_predictor"}


@pytest.mark.ray
@pytest.mark.slow
def test_it_runs_as_written(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # Ray's workers import cxr_ray from here too
    out = subprocess.run([sys.executable, NOTEBOOK], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert out.returncode == 0, f"{out.stdout[-2000:]}\n{out.stderr[-2000:]}"
    last = dict(line.split(": ", 1) for line in out.stdout.splitlines()[-5:])
    assert int(last["images"]) == len(list((tmp_path / "raw" / "images").iterdir())) >= 40
    before, after = map(float, last["loss of the first and last epoch"].split())
    assert 0 < after < before < 1
    assert re.fullmatch(r"Run\(best: lenet, finished, on test: recall [01]\.\d+, auroc [01]\.\d+, .*\)", last["winner"])
    found = re.fullmatch(r"\(2, 6\), from (\S+) to (\S+)", last["probabilities"])
    assert found and 0 < float(found[1]) < float(found[2]) < 1
    assert float(last["largest difference between file and store"]) < 1e-5
    reports = ["runs/first/report.html", "runs/sweep/sweep.html", "runs/sweep/best/report.html", "runs/both/run.json"]
    assert [name for name in reports if not (tmp_path / name).is_file()] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "runs", "shards"]


@pytest.mark.ray
@pytest.mark.slow
def test_the_one_about_maps_runs_as_written(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, MAPS], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert out.returncode == 0, f"{out.stdout[-2000:]}\n{out.stderr[-2000:]}"
    last = dict(line.split(": ", 1) for line in out.stdout.splitlines()[-3:])
    assert last["certificates that hold"] == "12 of 12"
    assert -1 < float(last["largest similarity to an untrained model"]) < 1
    marked, others, without = map(float, last["corner shares"].split())
    assert marked > 2 * others and marked > 3 * without
    files = ["maps/maps.npz", "maps/explain.html", "scored/scores.csv", "side_by_side.png"]
    assert [name for name in files if not (tmp_path / name).is_file()] == []
    assert re.search(r"^(Too few|Do not trust|Trust|The .* can be trusted)", out.stdout, re.MULTILINE)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_imports_only_cxr_ray_torch_and_numpy(notebook: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(notebook.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0
            names.add(node.module)
    assert "cxr_ray" in names  # as a whole: no module of it
    assert {name.split(".")[0] for name in names} == {"cxr_ray", "torch", "numpy"}
    assert not [name for name in names if name.startswith("cxr_ray.")]


def test_it_shows_the_whole_way() -> None:
    nodes = [node for node in ast.walk(ast.parse(TEXT)) if isinstance(node, ast.Attribute)]
    assert {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "cxr_ray"} >= SHOWN
    assert 'store.dataset("train")' in TEXT


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_are_those_of_the_percent_format(notebook: Path) -> None:
    first, *cells = re.split(r"^# %%", notebook.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert first == "" and len(cells) >= 10
    for cell in cells:
        heading, _, body = cell.partition("\n")
        assert heading in ("", " [markdown]"), heading
        lines = [line for line in body.splitlines() if line]
        assert lines and all(line.startswith("#") for line in lines) == (heading == " [markdown]"), body
