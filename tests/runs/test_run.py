"""The run folder: made once, refused twice, read back without torch."""

import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.errors import UserError

STORE = {"path": "shards", "fingerprint": "abc", "source": "phantom", "rows": 3, "notes": []}
PLAN = pd.DataFrame({"row": [1, 2, 3], "part": ["train", "val", "test"], "drawn": [2, 1, 1]})


def create(tmp_path, **hyperparameters) -> runs.Run:
    return runs.create(
        cfg.validate({"output": str(tmp_path), **hyperparameters}), store=STORE, plan=PLAN, about={"task": "multilabel"}
    )


def test_it_is_read_back(tmp_path):
    run = create(tmp_path, name="x", optim={"lr": 1e-5})
    again = runs.load(tmp_path / "x")
    assert again.config == run.config and again.config.optim.lr == 1e-5
    assert again.info["status"] == "started" and again.info["store"] == STORE
    pd.testing.assert_frame_equal(again.plan, PLAN)
    assert again.metrics.empty and list(again.metrics.columns) == runs.METRIC_COLUMNS
    assert again.environment["versions"]["torch"]


def test_a_run_without_a_name_is_named_by_date_model_and_config(tmp_path):
    run = create(tmp_path, model={"name": "lenet"})
    date, model, digest = run.path.name.split("-")
    assert len(date) == 8 and model == "lenet" and len(digest) == 10
    assert create(tmp_path, model={"name": "lenet"}).path == run.path  # unfinished: goes on
    run.update(status="finished")
    assert create(tmp_path, model={"name": "lenet"}).path.name == f"{run.path.name}-2"


def test_refusals(tmp_path):
    create(tmp_path, name="x")
    with pytest.raises(UserError, match=r"another config \(seed: was 0, is 1\)"):
        create(tmp_path, name="x", seed=1)
    with pytest.raises(UserError, match="the store shards has changed"):
        runs.create(
            cfg.validate({"output": str(tmp_path), "name": "x"}),
            store={**STORE, "fingerprint": "z"},
            plan=PLAN,
            about={},
        )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="is not a run folder"):
        create(tmp_path, name="full")
    for name in ("a/b", "..", ".x", "a b"):
        with pytest.raises(UserError, match="cannot name a folder"):
            create(tmp_path, name=name)


def test_no_run_names_the_closest_one(tmp_path):
    create(tmp_path, name="densenet")
    with pytest.raises(UserError, match=r"densnet is not a run folder.*did you mean 'densenet'"):
        runs.load(tmp_path / "densnet")
    with pytest.raises(UserError, match=r"cxr-ray evaluate .* --split test"):
        runs.load(tmp_path / "densenet").predictions("test")


def test_predictions_keep_what_joins_them_to_the_dataset(tmp_path):
    index = pd.DataFrame(
        {"row": [4, 7, 9], "source_row": [40, 70, 90], "patient": ["a", "b", "c"], "study": ["s", "s", "t"]}
    )
    table = runs.predictions_table(
        index, np.array([9, 4]), ["Edema"], np.array([[1.0], [np.nan]]), np.array([[0.75], [0.5]])
    )
    assert table.columns.tolist() == ["row", "source_row", "patient", "study", "true/Edema", "prob/Edema"]
    assert table["source_row"].tolist() == [90, 40] and table["patient"].tolist() == ["c", "a"]
    run = create(tmp_path, name="x")
    run.write_predictions("val", table)
    pd.testing.assert_frame_equal(run.predictions("val"), table)


def test_reading_a_run_imports_no_torch(tmp_path):
    create(tmp_path, name="x")
    code = f"import sys; from cxr_ray import runs; r = runs.load({str(tmp_path / 'x')!r}); r.config, r.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_change_is_lost_where_several_make_them_at_once(tmp_path):
    """As the driver, a worker and a tracker do: each reads, changes and writes the whole file."""
    run = create(tmp_path, name="x")
    start = threading.Barrier(4)

    def change(who: int) -> None:
        start.wait()
        for number in range(8):
            run.update(**{f"by-{who}-{number}": number})

    threads = [threading.Thread(target=change, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"by-{who}-{number}" for who in range(4) for number in range(8)} <= run.info.keys()
