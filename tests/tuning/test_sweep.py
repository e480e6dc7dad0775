"""The sweep folder: trials and their results, damaged and interrupted files, creation, resuming, and what is refused."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.runs import events
from cxr_ray.storage.lease import machine_id
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FAILED, FINISHED, RUNNING, WAITING, Trial
from tests.fakes.sweep import STORE, make_sweep

LABELS = ("Edema", "Mass")


# The folder


def test_trials_have_the_results_of_their_run_folders(tmp_path: Path) -> None:
    sweep = make_sweep(
        tmp_path / "s", trials=6, labels=LABELS, epochs=3, failed=(2,), running=(4,), waiting=(5,), status="started"
    )
    by_name = {t.name: t for t in sweep.trial_records}
    assert by_name["0002"].status == FAILED and "diverged" in str(by_name["0002"].error)
    assert by_name["0004"].status == RUNNING and by_name["0004"].epochs == 1
    waiting = by_name["0005"]
    assert (waiting.status, waiting.epoch, waiting.values, waiting.seconds) == (WAITING, None, {}, 0)
    for name in ("0000", "0002", "0004"):
        run = sweep.run(name)
        table = run.metrics[run.metrics["part"] == "val"]
        mean = table[(table["metric"] == "auroc") & (table["label"] == "mean")].set_index("epoch")["value"]
        trial = by_name[name]
        assert trial.epoch == mean.idxmax() and trial.epochs == mean.index.max()
        assert trial.values["val/auroc/mean"] == mean.max() and trial.seconds == run.info["seconds"]
        selected = table[table["epoch"] == trial.epoch]
        assert len(trial.values) == len(selected)
        recall = selected[(selected["metric"] == "recall") & (selected["label"] == "Edema")]["value"].item()
        assert trial.values["val/recall/Edema"] == recall


def test_a_run_that_ended_after_trials_json_was_written_has_ended(tmp_path: Path) -> None:
    """The driver was killed between the end of the run and its record of that."""
    sweep = make_sweep(tmp_path / "s", trials=3, labels=LABELS, epochs=2, failed=(), running=(1, 2), status="started")
    sweep.run("0001").update(status="finished")
    sweep.run("0002").update(status="failed", error="no memory")
    found = {t.name: (t.status, t.error) for t in sweep.trial_records}
    assert found["0001"] == (FINISHED, None) and found["0002"] == (FAILED, "no memory")


def test_hyperparameters_are_those_that_the_selected_epoch_was_trained_with(tmp_path: Path) -> None:
    """PBT changes them after an epoch; changes at or after the selected epoch do not count."""
    sweep = make_sweep(tmp_path / "s", trials=2, labels=LABELS, epochs=3, failed=())
    before = sweep.trial("0001")
    assert before.epoch is not None and before.epoch >= 1 and before.initial == before.hyperparameters
    changes = [{"epoch": before.epoch + by, "knobs": {"optim.lr": lr}, "from": "0000"} for by, lr in ((-1, 2), (0, 3))]
    sweep.run("0001").update(changes=changes)
    after = sweep.trial("0001")
    assert after.hyperparameters == {"optim.lr": 2} and after.initial == before.hyperparameters
    sweep.write_trials(sweep.trial_records)
    assert sweep.trial("0001") == after  # the file has the initial ones


def test_a_damaged_run_folder_does_not_hide_the_sweep(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=3, labels=LABELS, epochs=2, failed=())
    (sweep.path / "trials" / "0001" / "run.json").write_text("{")
    assert [t.name for t in sweep.trial_records] == ["0000", "0001", "0002"] and 1 not in [
        r.number for r in sweep.ranked()
    ]


def test_trials_are_read_as_they_were_written_and_in_order(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=1, labels=LABELS, waiting=(0,), failed=())
    trials = [Trial(f"{n:04d}-fold-{f}", n, {"optim.lr": 0.1, "data.image_size": [64, 64], "optim.clip_norm": None}, f, error="x" if f else None)
              for n, f in ((1, 1), (0, 1), (1, 0), (0, 0))]  # fmt: skip
    sweep.write_trials(trials)
    assert sweep.trial_records == sorted(trials, key=lambda t: (t.number, t.fold))
    assert Sweep(tmp_path / "none").trial_records == []


def test_update_changes_only_the_given_keys(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=1, labels=LABELS, waiting=(0,), failed=())
    before = sweep.info
    sweep.update(status="stopped", best="0003")
    assert sweep.info == {**before, "status": "stopped", "best": "0003"}
    assert not list(sweep.path.glob(".*.tmp"))


def test_a_trials_config_is_the_base_configuration_with_its_hyperparameters(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=3, labels=LABELS, waiting=range(3), failed=(), folds=2, scheduler="none")
    base_config = sweep.config
    for trial in sweep.trial_records:
        made = sweep.trial_config(trial)
        assert made.tune == cfg.Tune() and made.name == trial.name and made.output == str(sweep.path / "trials")
        assert made.optim.lr == trial.hyperparameters.get("optim.lr", base_config.optim.lr)
        assert (made.data.split.folds, made.data.split.fold) == (2, trial.fold)
        assert made.model_dump(exclude={"name", "output", "tune", "data", "optim", "loss"}) == base_config.model_dump(
            exclude={"name", "output", "tune", "data", "optim", "loss"}
        )
    base = next(t for t in sweep.trial_records if t.base)
    assert sweep.trial_config(base).optim == base_config.optim


def test_the_table_has_a_row_per_trial_and_the_base_value_of_what_a_trial_does_not_set(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=4, labels=LABELS, epochs=2, failed=(3,), waiting=(2,))
    table = sweep.trial_table().set_index("trial")
    assert list(table.index) == ["0000", "0001", "0002", "0003"] and "fold" not in table
    assert table.loc["0000", "optim.lr"] == 1e-4 and table.loc["0000", "data.uncertain.Edema"] == "zeros"
    assert table.loc["0001", "optim.lr"] == sweep.trial_records[1].hyperparameters["optim.lr"]
    assert table.loc["0001", "auroc/Edema"] == sweep.trial_records[1].values["val/auroc/Edema"]
    assert np.isnan(table["auroc/Edema"].loc["0002"])
    assert table["status"].tolist() == [t.status for t in sweep.trial_records]
    pd.testing.assert_frame_equal(sweep.trial_table(sweep.trial_records), sweep.trial_table())


# Creating, resuming, loading


def config(folder: Path, **changes: Any) -> cfg.Config:
    base = {
        "name": "s",
        "output": str(folder),
        "data": {"shards": "x"},
        "tune": {"space": {"optim.lr": {"loguniform": [1e-5, 1e-3]}}},
    }
    return cfg.validate(cfg.merge(base, changes))


def create(settings: cfg.Config, **store: Any) -> Sweep:
    return sweeps.create(settings, store={**STORE, **store}, about={"labels": list(LABELS), "knobs": ["optim.lr"]})


def test_a_new_sweep_has_its_config_and_store(tmp_path: Path) -> None:
    sweep = create(config(tmp_path))
    assert sweep.info["status"] == "started" and sweep.info["labels"] == list(LABELS) and sweep.info["best"] is None
    assert sweep.config == config(tmp_path, output=str(tmp_path.resolve())) and sweep.trial_records == []
    assert sweeps.load(sweep.path) == sweep


def test_a_sweep_without_a_name_gets_one(tmp_path: Path) -> None:
    sweep = create(config(tmp_path, name=None))
    assert "-sweep-" in sweep.path.name and sweep.config.name == sweep.path.name
    sweep.update(status="finished")
    assert create(config(tmp_path, name=None)).path.name == f"{sweep.path.name}-2"


def test_the_same_sweep_resumes_and_may_get_more_trials(tmp_path: Path) -> None:
    first = create(config(tmp_path))
    first.write_trials([Trial("0000", 0, {"optim.lr": 0.0}, status=FINISHED)])
    more = config(tmp_path, tune={"trials": 40, "max_concurrent": 1, "max_time": 5.0, "retries": 3, "ensemble": 2})
    resumed = create(more)
    assert resumed == first and resumed.trial_records and resumed.info["status"] == "started"
    assert resumed.config.tune.trials == 16  # not changed before the lease is taken: another driver may use this file
    sweeps.update_config(resumed, more)
    assert resumed.config == more.model_copy(update={"output": str(tmp_path.resolve())})
    assert resumed.config.tune.trials == 40


def test_a_killed_sweep_is_called_interrupted_when_it_is_opened(tmp_path: Path) -> None:
    sweep = create(config(tmp_path))
    lease = {"holder": "x", "pid": 1, "started": "0", "on": machine_id()}  # no process of this start time
    (sweep.path / "lease.json").write_text(json.dumps(lease))
    assert sweeps.load(sweep.path).info["status"] == "interrupted"
    assert [event["event"] for event in events.read(sweep.path)] == ["interrupted"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optim": {"lr": 0.5}}, "optim.lr: was 0.0001, is 0.5"),
        ({"tune": {"metric": "val/ap/mean"}}, "tune.metric: was val/auroc/mean, is val/ap/mean"),
        ({"tune": {"space": {"optim.lr": {"loguniform": [1e-6, 1e-3]}}}}, "tune.space"),
        ({"tune": {"scheduler": "none"}}, "tune.scheduler: was asha, is none"),
        ({"seed": 1}, "seed: was 0, is 1"),
    ],
)
def test_a_different_sweep_in_the_folder_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    before = create(config(tmp_path)).config
    with pytest.raises(UserError, match="the folder of s contains a different sweep") as error:
        create(config(tmp_path, **changes))
    assert expected in str(error.value) and "give a new name" in str(error.value)
    assert Sweep(tmp_path / "s").config == before


def test_a_store_that_changed_is_refused(tmp_path: Path) -> None:
    create(config(tmp_path))
    with pytest.raises(UserError, match="the store shards/x has changed since the sweep s was started"):
        create(config(tmp_path), fingerprint="other")


def test_a_folder_that_is_not_a_sweep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    create(config(tmp_path))  # an empty folder is accepted
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="exists and is not a sweep folder; give another name"):
        create(config(tmp_path, name="t"))
    with pytest.raises(UserError, match="is not a valid folder name"):
        create(config(tmp_path, name="a/b"))


def test_loading_what_is_not_a_sweep_offers_the_closest_name(tmp_path: Path) -> None:
    create(config(tmp_path, name="learning-rate"))
    with pytest.raises(
        UserError, match=r"is not a sweep folder.*did you mean 'learning-rate'\? Sweeps in .*: learning-rate"
    ):
        sweeps.load(tmp_path / "learning-rat")
    with pytest.raises(UserError, match=r"is not a sweep folder \(it has no sweep.json\)\.$"):
        sweeps.load(tmp_path / "no" / "such")


def test_an_interrupted_write_leaves_the_old_or_the_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted at every sync of a rewrite of both files."""
    import os

    sweep = create(config(tmp_path))
    old, new = ([Trial(f"{n:04d}", n, {}, status=FINISHED) for n in range(count)] for count in (1, 2))
    sweep.write_trials(old)
    real = os.fsync
    for last in itertools.count(1):
        remaining = last

        def dying(descriptor: int) -> None:
            nonlocal remaining
            remaining -= 1
            if not remaining:
                raise KeyboardInterrupt
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying)
            try:
                sweep.write_trials(new)
                sweep.update(status="finished")
            except KeyboardInterrupt:
                pass
            else:
                break
        names = [t["name"] for t in json.loads((sweep.path / "trials.json").read_text())]
        assert names in (["0000"], ["0000", "0001"]) and sweep.info["status"] in ("started", "finished")
        sweep.write_trials(old)
        sweep.update(status="started")
    assert last > 4 and len(sweep.trial_records) == 2 and sweep.info["status"] == "finished"


# How it shows itself


def test_a_sweep_shows_its_trials_its_winner_and_its_figures(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", labels=LABELS, epochs=2)
    pd.testing.assert_frame_equal(sweep.trials, sweep.trial_table())
    leading = sweep.ranked()[0].trials[0]
    assert repr(sweep).startswith(f"Sweep(s: finished, 16 of 16 trials ended, best {leading.name}: val/auroc/mean 0.")
    assert list(sweep.table.index) == [*LABELS, "mean"] and list(sweep.table)[:3] == ["recall", "auroc", "precision"]
    assert sweep.table.loc["Mass", "recall"] == leading.values["val/recall/Mass"]
    importance = sweep.importance
    assert importance is not None and importance.index[0] == "optim.lr" and importance.is_monotonic_decreasing
    assert sweep.best is None
    (sweep.path / "best").mkdir()
    (sweep.path / "best" / "run.json").write_text("{}")
    assert sweep.best is not None and sweep.best.path == sweep.path / "best"
    assert sweep.figure("curves").axes and sweep.figure("hyperparameter-optim.lr").axes
    with pytest.raises(
        UserError, match=r"unknown figure 'curve' of the sweep s; did you mean 'curves'.*hyperparameter-"
    ):
        sweep.figure("curve")
    page = sweep._repr_html_()
    assert "ROC AUC" in page and page.count("<img") == 2 and "the leading trial on val" in page
    table = sweep.trials_html()
    assert all(f"<th>{name}</th>" in table for name in ("trial", "optim.lr", "auroc/mean", "recall/mean"))
    assert table.count("<th>") < 20 < sweep.trials.shape[1]  # metrics of single labels are in sweep.csv and on the page


def test_a_sweep_without_results_shows_itself(tmp_path: Path) -> None:
    assert repr(Sweep(tmp_path / "none")) == f"Sweep({str(tmp_path / 'none')!r})"
    sweep = make_sweep(tmp_path / "s", trials=3, labels=LABELS, failed=(), waiting=(0, 1, 2), status="started")
    assert repr(sweep) == "Sweep(s: started, 0 of 3 trials ended)"
    assert sweep.importance is None and sweep.best is None and sweep.table["recall"].isna().all()
    assert "waiting" in sweep._repr_html_()
