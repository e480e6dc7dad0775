"""Trackers: what TensorBoard records of a training, read by its own library; errors are only warnings. MLflow: test_trackers_mlflow.py."""

import socket
from pathlib import Path
from typing import Any

import pytest

from cxr_ray.errors import UserError
from cxr_ray.training import trackers
from tests.fakes.tracked import events, scalars, tracked, values

pytest.importorskip("tensorboard")


def test_tensorboard_reads_every_metric_and_the_file_name_has_no_host(tmp_path: Path) -> None:
    run = tracked(tmp_path / "run", "tensorboard")
    tracker = trackers.open(run, run.config, log=pytest.fail)
    for epoch, auroc in ((0, 0.5), (1, 0.8)):
        tracker.log(epoch, values(auroc))
    tracker.close("finished")
    assert scalars(run.path, "val/auroc/mean") == {0: 0.5, 1: 0.8}
    assert scalars(run.path, "val/auroc/Mass__left") == {0: 0.6, 1: 0.9}
    assert scalars(run.path, "train/loss") == {0: 0.5, 1: 0.2}
    (file,) = run.path.glob("events.out.tfevents.*")
    assert socket.gethostname() not in file.name


def test_metrics_are_on_disk_after_every_epoch(tmp_path: Path) -> None:
    """After a kill, completed epochs are there."""
    run = tracked(tmp_path / "run", "tensorboard")
    trackers.open(run, run.config, log=pytest.fail).log(0, values(0.5))
    assert scalars(run.path, "val/auroc/mean") == {0: 0.5}


def test_selected_metrics_are_those_of_the_best_epoch_so_far(tmp_path: Path) -> None:
    run = tracked(tmp_path / "run", "tensorboard")
    tracker = trackers.open(run, run.config, log=pytest.fail)
    metrics = run.metrics
    for epoch, auroc in ((0, 0.5), (1, 0.8), (2, 0.7)):
        metrics[metrics["epoch"] <= epoch].to_csv(run.path / "metrics.csv", index=False)
        tracker.log(epoch, values(auroc))
    tracker.close("finished")
    assert scalars(run.path, "kept/val/auroc/mean") == {0: 0.5, 1: 0.8, 2: 0.8}


def test_a_resumed_run_replaces_what_an_earlier_start_wrote_for_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracked(tmp_path / "run", "tensorboard")
    tracker = trackers.open(run, run.config, log=pytest.fail)
    tracker.log(0, values(0.5))
    tracker.log(1, values(0.9))  # killed before the checkpoint of epoch 1
    later = trackers.time.time() + 2
    monkeypatch.setattr(trackers.time, "time", lambda: later)
    resumed = trackers.open(run, run.config, log=pytest.fail, epoch=1)
    resumed.log(1, values(0.6))
    resumed.close("finished")
    assert scalars(run.path, "val/auroc/mean") == {0: 0.5, 1: 0.6}
    assert len(events(run.path).Scalars("val/auroc/mean")) == 2


def test_a_trial_has_its_hyperparameters_on_the_hparams_page(tmp_path: Path) -> None:
    """Read by the plugin's own protocol buffers. A hyperparameter that the trial does not change has the config's value."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    sweep = {
        "name": "s",
        "metrics": ["val/auroc/mean"],
        "knobs": ["optim.lr", "data.uncertain.Edema", "optim.clip_norm"],
    }
    run = tracked(tmp_path / "run", "tensorboard", **{"knobs": {"optim.lr": 0.01}, "sweep": sweep})
    tracker = trackers.open(run, run.config, log=pytest.fail)
    tracker.log(1, values(0.8))
    tracker.close("failed")

    def content(tag: str) -> Any:
        data = events(run.path).summary_metadata[f"_hparams_/{tag}"].plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(data)

    start = content("session_start_info").session_start_info
    hyperparameters = {k: v.number_value or v.string_value for k, v in start.hparams.items()}
    assert hyperparameters == {"optim.lr": 0.01, "data.uncertain.Edema": "ones", "optim.clip_norm": "null"}
    assert [m.name.tag for m in content("experiment").experiment.metric_infos] == ["kept/val/auroc/mean"]
    assert content("session_end_info").session_end_info.status == 2  # STATUS_FAILURE


def test_a_plain_run_has_no_hparams(tmp_path: Path) -> None:
    run = tracked(tmp_path / "run", "tensorboard")
    trackers.open(run, run.config, log=pytest.fail).close("finished")
    assert not any(tag.startswith("_hparams_") for tag in events(run.path).summary_metadata)


def test_a_full_disk_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracked(tmp_path / "run", "tensorboard")
    log: list[str] = []
    tracker = trackers.open(run, run.config, log=log.append)
    monkeypatch.setattr(
        trackers.TensorBoard,
        "_write",
        lambda self, **fields: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    for epoch in range(3):
        tracker.log(epoch, values(0.5))
    tracker.close("finished")
    assert len(log) == 1 and "tensorboard failed and gets no more metrics" in log[0] and "No space left" in log[0]


def test_a_tracker_that_is_not_installed_is_an_error_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    trackers.check(["tensorboard", "mlflow"])
    real = trackers.importlib.util.find_spec
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "sqlalchemy" else real(name))
    with pytest.raises(
        UserError, match=r"names mlflow, but sqlalchemy cannot be imported: pip install .*cxr_ray\[mlflow\]"
    ):
        trackers.check(["tensorboard", "mlflow"])


def test_commands_to_view_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    commands = trackers.commands(["tensorboard", "mlflow"], tmp_path / "a sweep" / "trials", tmp_path)
    assert commands == [
        f"tensorboard --logdir '{tmp_path}/a sweep/trials'",
        f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db",
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracks.example/")
    assert trackers.commands(["mlflow"], tmp_path, tmp_path) == ["open https://tracks.example/"]
    assert trackers.commands([], tmp_path, tmp_path) == []
