"""Trackers: what MLflow records of a training, alone and next to TensorBoard, read by its own library; errors are only warnings."""

import json
import multiprocessing
import shutil
import socket
import threading
import time
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
from tests.fakes.tracked import open_one, scalars, tracked, values
from tests.fakes.trainings import config, fit

pytest.importorskip("tensorboard")
mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with MLflow's tables, whose creation takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    trackers.client(folder)
    return folder / "mlflow.db"


@pytest.fixture
def out(tmp_path: Path, blank: Path) -> Path:
    """An output folder with an empty store."""
    shutil.copy(blank, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


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
    logged = the_run(out)
    assert logged.info.status == "FINISHED" and logged.info.run_name == "a"
    assert logged.data.params["optim.lr"] == "0.0001" and logged.data.params["data.uncertain.Edema"] == "ones"
    assert logged.data.params["data.split.val"] == "0.1" and logged.data.params["optim.clip_norm"] == "null"
    assert not any(name.startswith("tune.") for name in logged.data.params)
    hyperparameters = {name for name, _ in cfg.settings(cfg.Config) if not name.startswith("tune.")} - {
        "data.uncertain"
    }
    assert hyperparameters <= set(logged.data.params)
    assert logged.data.metrics["val/auroc/mean"] == 0.8 and logged.data.metrics["kept/val/auroc/mean"] == 0.8
    history = client(out).get_metric_history(logged.info.run_id, "val/auroc/Mass_ left")
    assert [(m.step, m.value) for m in history] == [(0, 0.6), (1, pytest.approx(0.9))]
    assert all(abs(m.timestamp / 1000 - time.time()) < 600 for m in history)
    assert not list(here.iterdir())  # nothing in the working directory


@pytest.mark.parametrize(
    ("status", "mlflow_status"), [("finished", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")]
)
def test_the_final_status_of_a_training(out: Path, status: trackers.Status, mlflow_status: str) -> None:
    run = tracked(out / "a", "mlflow")
    trackers.open(run, run.config, log=pytest.fail).close(status)
    assert the_run(out).info.status == mlflow_status


def test_a_resumed_training_continues_its_mlflow_run(out: Path) -> None:
    run = tracked(out / "a", "mlflow")
    first = trackers.open(run, run.config, log=pytest.fail)
    first.log(0, values(0.5))
    first.close("stopped")
    before = the_run(out)
    resumed = trackers.open(run, run.config, log=pytest.fail, epoch=1)
    assert the_run(out).info.status == "RUNNING"
    resumed.log(1, values(0.8))
    resumed.close("finished")
    after = the_run(out)
    assert after.info.run_id == before.info.run_id == run.info["mlflow_run"] and after.info.status == "FINISHED"
    history = client(out).get_metric_history(after.info.run_id, "val/auroc/mean")
    assert {m.step: m.value for m in history} == {0: 0.5, 1: 0.8}


def test_a_run_that_the_server_does_not_know_is_created_again(out: Path) -> None:
    run = tracked(out / "a", "mlflow", mlflow_run="0" * 32)
    trackers.open(run, run.config, log=pytest.fail).close("finished")
    assert the_run(out).info.run_id == run.info["mlflow_run"] != "0" * 32


def test_a_sweep_is_an_experiment(out: Path) -> None:
    sweep = make_sweep(out / "lr-sweep", trials=3, epochs=2, failed=())
    for trial in sweep.trial_records:
        run = sweep.run(trial)
        settings = run.config.model_copy(update={"report": cfg.Report(trackers=["mlflow"])})
        tracker = trackers.open(run, settings, log=pytest.fail)
        tracker.log(0, values(0.5))
        tracker.close("finished")
    mlflow_client = client(out)
    found = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("lr-sweep").experiment_id])
    assert {r.info.run_name for r in found} == {"0000", "0001", "0002"}
    hyperparameters = {r.info.run_name: r.data.params["optim.lr"] for r in found}
    assert {name: float(v) for name, v in hyperparameters.items()} == {
        t.name: t.hyperparameters.get("optim.lr", 1e-4) for t in sweep.trial_records
    }
    assert {r.data.tags["cxr_ray.sweep"] for r in found} == {"lr-sweep"}
    assert not list((sweep.path / "trials").glob("mlflow.db"))


def test_the_end_of_a_trial_whose_process_was_killed_is_recorded(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(out / "lr-sweep", trials=2, epochs=2, failed=())
    config = sweep.config.model_copy(update={"report": cfg.Report(trackers=["mlflow"])})
    first, second = (sweep.run(t) for t in sweep.trial_records)
    for run in (first, second):
        settings = run.config.model_copy(update={"report": config.report})
        tracker = trackers.open(run, settings, log=pytest.fail)
        tracker.log(0, values(0.5))
    tracker.close("finished")
    for run in (first, second):
        trackers.end(run, config, "stopped", log=pytest.fail)
    mlflow_client = client(out)
    assert [mlflow_client.get_run(run.info["mlflow_run"]).info.status for run in (first, second)] == [
        "KILLED",
        "FINISHED",
    ]
    monkeypatch.setattr(trackers, "client", lambda output: 1 / 0)
    log: list[str] = []
    trackers.end(first, config, "stopped", log=log.append)  # an error is a warning and never ends the sweep
    assert len(log) == 1 and log[0].startswith("warning: mlflow did not record the end of 0000")


@pytest.mark.slow
def test_trials_that_create_the_store_at_once_do_not_fail(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=open_one, args=(str(tmp_path), name)) for name in ("a", "b")]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert [json.loads((tmp_path / f"{name}.log").read_text()) for name in ("a", "b")] == [[], []]
    mlflow_client = client(tmp_path)
    found = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("cxr_ray").experiment_id])
    assert {r.info.run_name: r.info.status for r in found} == {"a": "FINISHED", "b": "FINISHED"}


class Server(BaseHTTPRequestHandler):
    """MLflow's REST interface as far as a training uses it; every request fails while `broken`, or is `refused` as invalid."""

    broken = False
    refused = False
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
        if self.refused:
            body = {"error_code": "INVALID_PARAMETER_VALUE", "message": "no such parameter"}
        text = json.dumps(body).encode()
        self.send_response(500 if self.broken else 400 if self.refused else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    monkeypatch.setattr(Server, "broken", False)
    monkeypatch.setattr(Server, "refused", False)
    monkeypatch.setattr(Server, "calls", [])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    http = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{http.server_address[1]}")
    yield Server
    http.shutdown()
    http.server_close()


def test_a_request_that_the_server_refuses_is_not_tried_again(tmp_path: Path, server: type[Server]) -> None:
    """Sent again it would be refused again, and everything after it would wait."""
    run = tracked(tmp_path / "a", "mlflow")
    log: list[str] = []
    tracker = trackers.open(run, run.config, log=log.append)
    server.refused = True
    tracker.log(0, values(0.5))
    assert len(log) == 1 and "mlflow failed and gets no more metrics; the training continues" in log[0]
    server.refused = False
    calls = len(server.calls)
    tracker.log(1, values(0.8))
    assert len(server.calls) == calls and len(log) == 1


def test_failed_requests_are_sent_when_the_server_responds_again(
    tmp_path: Path, server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracked(tmp_path / "a", "mlflow")
    log: list[str] = []
    tracker = trackers.open(run, run.config, log=log.append)
    assert not log and not (tmp_path / "mlflow.db").exists()
    server.broken = True
    tracker.log(0, values(0.5))
    tracker.log(1, values(0.8))
    assert len(log) == 1 and "mlflow does not respond; the training continues" in log[0] and "secret" not in log[0]
    server.broken = False
    monkeypatch.setattr(trackers, "RETRY_AFTER_S", 0.0)
    tracker.close("finished")
    sent = [
        (m["step"], m["key"]) for path, body in server.calls if path == "log-batch" for m in body.get("metrics", [])
    ]
    assert (0, "val/auroc/mean") in sent and (1, "val/auroc/mean") in sent
    assert server.calls[-1][0] == "update" and server.calls[-1][1]["status"] == "FINISHED"
    assert len(log) == 1
    assert "secret" not in (run.path / "run.json").read_text()


def test_requests_stay_below_mlflows_limits(tmp_path: Path, server: type[Server]) -> None:
    run = tracked(tmp_path / "a", "mlflow")
    tracker = trackers.open(run, run.config, log=pytest.fail)
    names = [f"metric {i}" for i in range(2001)]
    tracker.log(0, dict.fromkeys(names, 0.5))
    batches = [body for path, body in server.calls if path == "log-batch"]
    metrics = [[m["key"] for m in body["metrics"]] for body in batches if body.get("metrics")]
    params = [[p["key"] for p in body["params"]] for body in batches if body.get("params")]
    assert [len(batch) for batch in metrics[:2]] == [1000, 1000] and max(map(len, metrics)) == 1000
    assert [name for batch in metrics for name in batch][:2001] == names
    assert sorted(name for batch in params for name in batch) == sorted(trackers.parameters(run.config.model_dump()))
    assert all(len(batch) <= 100 for batch in params)


def test_a_single_run_is_in_the_experiment_of_the_environment(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    run = tracked(out / "a", "mlflow")
    trackers.open(run, run.config, log=pytest.fail).close("finished")
    logged = the_run(out, "mine")
    assert logged.info.run_name == "a" and "cxr_ray.sweep" not in logged.data.tags
    assert client(out).get_experiment_by_name("mine").artifact_location == (out / "mlflow-artifacts").as_uri()


def test_a_server_that_never_responds_is_two_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:  # bound, but not listening
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        run = tracked(tmp_path / "a", "mlflow", "tensorboard")
        log: list[str] = []
        tracker = trackers.open(run, run.config, log=log.append)
        for epoch in range(3):
            tracker.log(epoch, values(0.5))
        tracker.close("finished")
    assert len(log) == 2 and "does not respond" in log[0] and "the run folder has them" in log[1]
    assert scalars(run.path, "val/auroc/mean") == {0: 0.5, 1: 0.5, 2: 0.5}  # the other tracker has all of it


def test_parameters_respect_mlflows_limits() -> None:
    parameters = trackers.parameters({"a": {"b": "x" * 7000, "c (d)": [1, 2]}, "tune": {"trials": 3}, "e": {}})
    assert parameters == {"a.b": "x" * 6000, "a.c _d_": "[1, 2]", "e": "{}"}
    assert trackers.parameters({"n" * 300: "m"}) == {"n" * 250: "m"}


def test_the_trainer_logs_the_metrics_of_its_table_and_its_status(out: Path) -> None:
    run = fit(config(out, train={"epochs": 2}, report={"trackers": ["tensorboard", "mlflow"]}), fake_store(60))
    table = run.metrics
    table = table[(table["metric"] == "auroc") & (table["label"] == "mean") & (table["part"] == "val")]
    expected = dict(zip(table["epoch"], table["value"].astype(float), strict=True))
    assert scalars(run.path, "val/auroc/mean") == expected
    logged = the_run(out)
    assert logged.info.status == "FINISHED" and logged.data.metrics["val/auroc/mean"] == expected[2]
    assert logged.data.metrics["kept/val/auroc/mean"] == run.info["best"]["value"]


def test_a_training_that_fails_has_the_status_failed(out: Path) -> None:
    with pytest.raises(UserError, match="not a number"):
        fit(config(out, optim={"lr": 1e30}, report={"trackers": ["mlflow"]}, train={"epochs": 3}), fake_store(60))
    assert the_run(out).info.status == "FAILED"
