"""Trackers: what TensorBoard and MLflow hold of a training, read back by their own programs; what trouble with them costs."""

import json
import multiprocessing
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.training import trackers
from tests.fakes.store import fake_store
from tests.fakes.sweep import make_sweep
from tests.fakes.tracked import open_one, tracked
from tests.training.test_trainer import config, fit

tensorboard = pytest.importorskip("tensorboard")
mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with MLflow's tables: laying them out takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    trackers.client(folder)
    return folder / "mlflow.db"


@pytest.fixture
def out(tmp_path: Path, blank: Path) -> Path:
    """An output folder with an empty store beside the runs to come."""
    shutil.copy(blank, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def values(auroc: float) -> dict[str, float]:
    return {"val/auroc/mean": auroc, "val/auroc/Mass, left": auroc + 0.1, "train/loss": 1 - auroc}


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), purge_orphaned_data=True)
    read.Reload()
    return read


def scalars(folder: Path, tag: str) -> dict[int, float]:
    return {e.step: pytest.approx(e.value, abs=1e-6) for e in events(folder).Scalars(tag)}


# TensorBoard


def test_tensorboard_reads_every_metric_and_no_host_names_the_file(tmp_path: Path) -> None:
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


def test_what_is_logged_is_on_the_disk_before_the_end(tmp_path: Path) -> None:
    """A killed training leaves what its epochs wrote."""
    run = tracked(tmp_path / "run", "tensorboard")
    trackers.open(run, run.config, log=pytest.fail).log(0, values(0.5))
    assert scalars(run.path, "val/auroc/mean") == {0: 0.5}


def test_kept_is_the_value_at_the_best_epoch_so_far(tmp_path: Path) -> None:
    run = tracked(tmp_path / "run", "tensorboard")
    tracker = trackers.open(run, run.config, log=pytest.fail)
    whole = run.metrics
    for epoch, auroc in ((0, 0.5), (1, 0.8), (2, 0.7)):
        whole[whole["epoch"] <= epoch].to_csv(run.path / "metrics.csv", index=False)
        tracker.log(epoch, values(auroc))
    tracker.close("finished")
    assert scalars(run.path, "kept/val/auroc/mean") == {0: 0.5, 1: 0.8, 2: 0.8}


def test_a_later_start_takes_the_place_of_what_an_earlier_one_wrote_of_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracked(tmp_path / "run", "tensorboard")
    tracker = trackers.open(run, run.config, log=pytest.fail)
    tracker.log(0, values(0.5))
    tracker.log(1, values(0.9))  # killed before the checkpoint of epoch 1
    later = trackers.time.time() + 2
    monkeypatch.setattr(trackers.time, "time", lambda: later)
    again = trackers.open(run, run.config, log=pytest.fail, epoch=1)
    again.log(1, values(0.6))
    again.close("finished")
    assert scalars(run.path, "val/auroc/mean") == {0: 0.5, 1: 0.6}
    assert len(events(run.path).Scalars("val/auroc/mean")) == 2


def test_a_trial_has_its_knobs_on_the_hparams_page(tmp_path: Path) -> None:
    """Read by the plugin's own protocol buffers: knobs, the config's own for the trial that is the config as written."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    sweep = {
        "name": "s",
        "metrics": ["val/auroc/mean"],
        "knobs": ["optim.lr", "data.uncertain.Edema", "optim.clip_norm"],
    }
    run = tracked(tmp_path / "run", "tensorboard", knobs={"optim.lr": 0.01}, sweep=sweep)
    tracker = trackers.open(run, run.config, log=pytest.fail)
    tracker.log(1, values(0.8))
    tracker.close("failed")

    def held(tag: str) -> Any:
        content = events(run.path).summary_metadata[f"_hparams_/{tag}"].plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(content)

    given = {
        k: v.number_value or v.string_value for k, v in held("session_start_info").session_start_info.hparams.items()
    }
    assert given == {"optim.lr": 0.01, "data.uncertain.Edema": "ones", "optim.clip_norm": "null"}
    assert [m.name.tag for m in held("experiment").experiment.metric_infos] == ["kept/val/auroc/mean"]
    assert held("session_end_info").session_end_info.status == 2  # STATUS_FAILURE


def test_a_plain_run_has_no_hparams(tmp_path: Path) -> None:
    run = tracked(tmp_path / "run", "tensorboard")
    trackers.open(run, run.config, log=pytest.fail).close("finished")
    assert not any(tag.startswith("_hparams_") for tag in events(run.path).summary_metadata)


def test_a_disk_that_is_full_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracked(tmp_path / "run", "tensorboard")
    said: list[str] = []
    tracker = trackers.open(run, run.config, log=said.append)
    monkeypatch.setattr(
        trackers.TensorBoard,
        "_write",
        lambda self, **what: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    for epoch in range(3):
        tracker.log(epoch, values(0.5))
    tracker.close("finished")
    assert len(said) == 1 and "tensorboard gets nothing more" in said[0] and "No space left" in said[0]


# MLflow


def client(output: Path) -> Any:
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{output / 'mlflow.db'}")


def the_run(output: Path, experiment: str = "cxr_ray") -> Any:
    (found,) = client(output).search_runs([client(output).get_experiment_by_name(experiment).experiment_id])
    return found


def test_mlflow_holds_parameters_and_metrics_by_epoch(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = out / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    run = tracked(out / "a", "mlflow")
    tracker = trackers.open(run, run.config, log=pytest.fail)
    assert the_run(out).info.status == "RUNNING"
    tracker.log(0, values(0.5))
    tracker.log(1, values(0.8))
    tracker.close("finished")
    held = the_run(out)
    assert held.info.status == "FINISHED" and held.info.run_name == "a"
    assert held.data.params["optim.lr"] == "0.0001" and held.data.params["data.uncertain.Edema"] == "ones"
    assert held.data.params["data.split.val"] == "0.1" and held.data.params["optim.clip_norm"] == "null"
    assert not any(name.startswith("tune.") for name in held.data.params)
    hyperparameters = {name for name, _ in cfg.settings(cfg.Config) if not name.startswith("tune.")} - {
        "data.uncertain"
    }
    assert hyperparameters <= set(held.data.params)
    assert held.data.metrics["val/auroc/mean"] == 0.8 and held.data.metrics["kept/val/auroc/mean"] == 0.8
    history = client(out).get_metric_history(held.info.run_id, "val/auroc/Mass_ left")
    assert [(m.step, m.value) for m in history] == [(0, 0.6), (1, pytest.approx(0.9))]
    assert not list(here.iterdir())  # nothing where one stands


@pytest.mark.parametrize(("status", "ended"), [("finished", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")])
def test_how_a_training_ended(out: Path, status: trackers.Status, ended: str) -> None:
    run = tracked(out / "a", "mlflow")
    trackers.open(run, run.config, log=pytest.fail).close(status)
    assert the_run(out).info.status == ended


def test_a_training_that_goes_on_goes_on_in_its_mlflow_run(out: Path) -> None:
    run = tracked(out / "a", "mlflow")
    first = trackers.open(run, run.config, log=pytest.fail)
    first.log(0, values(0.5))
    first.close("stopped")
    before = the_run(out)
    again = trackers.open(run, run.config, log=pytest.fail, epoch=1)
    assert the_run(out).info.status == "RUNNING"
    again.log(1, values(0.8))
    again.close("finished")
    after = the_run(out)
    assert after.info.run_id == before.info.run_id == run.info["mlflow_run"] and after.info.status == "FINISHED"
    history = client(out).get_metric_history(after.info.run_id, "val/auroc/mean")
    assert {m.step: m.value for m in history} == {0: 0.5, 1: 0.8}


def test_a_run_of_another_store_is_made_anew(out: Path) -> None:
    run = tracked(out / "a", "mlflow", mlflow_run="0" * 32)
    trackers.open(run, run.config, log=pytest.fail).close("finished")
    assert the_run(out).info.run_id == run.info["mlflow_run"] != "0" * 32


def test_a_sweep_is_an_experiment_beside_the_sweeps(out: Path) -> None:
    sweep = make_sweep(out / "lr-sweep", trials=3, epochs=2, failed=())
    for trial in sweep.trials:
        run = sweep.run(trial)
        settings = run.config.model_copy(update={"report": cfg.Report(trackers=["mlflow"])})
        tracker = trackers.open(run, settings, log=pytest.fail)
        tracker.log(0, values(0.5))
        tracker.close("finished")
    held = client(out)
    found = held.search_runs([held.get_experiment_by_name("lr-sweep").experiment_id])
    assert {r.info.run_name for r in found} == {"0000", "0001", "0002"}
    hyperparameters = {r.info.run_name: r.data.params["optim.lr"] for r in found}
    assert {name: float(v) for name, v in hyperparameters.items()} == {
        t.name: t.hyperparameters.get("optim.lr", 1e-4) for t in sweep.trials
    }
    assert {r.data.tags["cxr_ray.sweep"] for r in found} == {"lr-sweep"}
    assert not list((sweep.path / "trials").glob("mlflow.db"))


def test_the_end_of_a_trial_whose_process_was_taken_is_told(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(out / "lr-sweep", trials=2, epochs=2, failed=())
    config = sweep.config.model_copy(update={"report": cfg.Report(trackers=["mlflow"])})
    first, second = (sweep.run(t) for t in sweep.trials)
    for run in (first, second):
        settings = run.config.model_copy(update={"report": config.report})
        tracker = trackers.open(run, settings, log=pytest.fail)
        tracker.log(0, values(0.5))
    tracker.close("finished")
    for run in (first, second):
        trackers.end(run, config, "stopped", log=pytest.fail)
    held = client(out)
    assert [held.get_run(run.info["mlflow_run"]).info.status for run in (first, second)] == ["KILLED", "FINISHED"]
    monkeypatch.setattr(trackers, "client", lambda output: 1 / 0)
    said: list[str] = []
    trackers.end(first, config, "stopped", log=said.append)  # trouble is a line, and never the sweep's end
    assert len(said) == 1 and said[0].startswith("warning: mlflow was not told how 0000 ended")


@pytest.mark.slow
def test_trials_that_make_the_store_at_once_do_not_trip_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=open_one, args=(str(tmp_path), name)) for name in ("a", "b")]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert [json.loads((tmp_path / f"{name}.said").read_text()) for name in ("a", "b")] == [[], []]
    held = client(tmp_path)
    found = held.search_runs([held.get_experiment_by_name("cxr_ray").experiment_id])
    assert {r.info.run_name: r.info.status for r in found} == {"a": "FINISHED", "b": "FINISHED"}


class Server(BaseHTTPRequestHandler):
    """As MLflow's REST interface, as far as a training speaks to it; out of order while `broken`."""

    broken = False
    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def do_GET(self) -> None:
        self._answer({"experiment": {"experiment_id": "7", "name": "cxr_ray"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.broken:
            self.calls.append((self.path.rpartition("/")[2], body))
        self._answer({"run": {"info": {"run_id": "a" * 32, "experiment_id": "7", "status": "RUNNING"}, "data": {}},
                      "run_info": {"run_id": "a" * 32, "status": "FINISHED"}})  # fmt: skip

    def _answer(self, body: dict[str, Any]) -> None:
        said = json.dumps(body).encode()
        self.send_response(500 if self.broken else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    monkeypatch.setattr(Server, "broken", False)
    monkeypatch.setattr(Server, "calls", [])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    held = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=held.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{held.server_address[1]}")
    yield Server
    held.shutdown()
    held.server_close()


def test_what_a_server_missed_is_sent_when_it_answers_again(
    tmp_path: Path, server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracked(tmp_path / "a", "mlflow")
    said: list[str] = []
    tracker = trackers.open(run, run.config, log=said.append)
    assert not said and not (tmp_path / "mlflow.db").exists()
    server.broken = True
    tracker.log(0, values(0.5))
    tracker.log(1, values(0.8))
    assert len(said) == 1 and "mlflow does not answer, the training goes on" in said[0] and "secret" not in said[0]
    server.broken = False
    monkeypatch.setattr(trackers, "AGAIN_S", 0.0)
    tracker.close("finished")
    sent = [
        (m["step"], m["key"]) for path, body in server.calls if path == "log-batch" for m in body.get("metrics", [])
    ]
    assert (0, "val/auroc/mean") in sent and (1, "val/auroc/mean") in sent
    assert server.calls[-1][0] == "update" and server.calls[-1][1]["status"] == "FINISHED"
    assert len(said) == 1
    assert "secret" not in (run.path / "run.json").read_text()


def test_a_server_that_never_answers_costs_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:  # bound, and never listening
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{held.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        run = tracked(tmp_path / "a", "mlflow", "tensorboard")
        said: list[str] = []
        tracker = trackers.open(run, run.config, log=said.append)
        for epoch in range(3):
            tracker.log(epoch, values(0.5))
        tracker.close("finished")
    assert len(said) == 2 and "does not answer" in said[0] and "the run folder holds it" in said[1]
    assert scalars(run.path, "val/auroc/mean") == {0: 0.5, 1: 0.5, 2: 0.5}  # the other tracker has it all


# Asking for them


def test_a_tracker_that_is_not_installed_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    trackers.check(["tensorboard", "mlflow"])
    real = trackers.importlib.util.find_spec
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "sqlalchemy" else real(name))
    with pytest.raises(
        UserError, match=r"names mlflow, but sqlalchemy cannot be imported: pip install .*cxr_ray\[mlflow\]"
    ):
        trackers.check(["tensorboard", "mlflow"])


def test_commands_open_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = trackers.commands(["tensorboard", "mlflow"], tmp_path / "a sweep" / "trials", tmp_path)
    assert said == [
        f"tensorboard --logdir '{tmp_path}/a sweep/trials'",
        f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db",
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracks.example/")
    assert trackers.commands(["mlflow"], tmp_path, tmp_path) == ["open https://tracks.example/"]
    assert trackers.commands([], tmp_path, tmp_path) == []


def test_parameters_keep_mlflows_limits() -> None:
    found = trackers.parameters({"a": {"b": "x" * 7000, "c (d)": [1, 2]}, "tune": {"trials": 3}, "e": {}})
    assert found == {"a.b": "x" * 6000, "a.c _d_": "[1, 2]", "e": "{}"}


# The engine


def test_the_engine_logs_what_its_tables_hold_and_how_it_ended(out: Path) -> None:
    run = fit(config(out, train={"epochs": 2}, report={"trackers": ["tensorboard", "mlflow"]}), fake_store(60))
    table = run.metrics
    table = table[(table["metric"] == "auroc") & (table["label"] == "mean") & (table["part"] == "val")]
    want = dict(zip(table["epoch"], table["value"].astype(float), strict=True))
    assert scalars(run.path, "val/auroc/mean") == want
    held = the_run(out)
    assert held.info.status == "FINISHED" and held.data.metrics["val/auroc/mean"] == want[2]
    assert held.data.metrics["kept/val/auroc/mean"] == run.info["best"]["value"]


def test_a_training_that_fails_ends_as_failed(out: Path) -> None:
    with pytest.raises(UserError, match="not a number"):
        fit(config(out, optim={"lr": 1e30}, report={"trackers": ["mlflow"]}, train={"epochs": 3}), fake_store(60))
    assert the_run(out).info.status == "FAILED"
