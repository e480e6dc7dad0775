"""Sends a training's metrics to TensorBoard and MLflow. An error there is a one-line warning and never ends the training.

The run folder's own tables: history.py."""

import importlib.util
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.errors import UserError
from cxr_ray.runs import Run
from cxr_ray.storage.atomic import folder_lock

Status = Literal["finished", "stopped", "failed"]
SELECTED = "kept/"
"""Prefix of metrics at the epoch selected so far, by which a sweep ranks trials; `val/...` are those of the newest epoch."""
NEEDS = {"tensorboard": ("tensorboardX",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Modules that each tracker imports; `cxr_ray[mlflow]` installs those of the second."""
RETRY_AFTER_S = 60.0
"""Wait after an error of the server, so that the training does not wait for it in every epoch."""
MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""MLflow's names of a run's final status."""
PARAMETER_LENGTH, PARAMETERS, METRICS = 6000, 100, 1000
"""MLflow's limits: characters per parameter, parameters and metrics per request (mlflow.utils.validation, 3.17)."""


class Tracker(Protocol):
    """A destination of metrics."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the metrics of an epoch, by name (`val/auroc/Edema`)."""

    def close(self, status: Status) -> None:
        """Record the final status of the training, and close files and connections."""


def check(names: Sequence[str]) -> None:
    """Raises `UserError` if a tracker of `report.trackers` is not installed."""
    for name in names:
        missing = [m for m in NEEDS[name] if importlib.util.find_spec(m) is None]
        if missing:
            extra = f"'cxr_ray[{name}]'" if name == "mlflow" else missing[0]
            raise UserError(
                f"report.trackers names {name}, but {', '.join(missing)} cannot be imported: pip install -c constraints.txt "
                f"{extra}, or leave {name} out"
            )


def open(run: Run, config: cfg.Config, *, log: Callable[[str], None], epoch: int = 0) -> "Trackers":
    """The trackers of `report.trackers` for a training whose next epoch is `epoch`; only rank 0 opens them.

    The hyperparameters and objectives of a trial come from the `knobs` and the `sweep` of its run.json."""
    info = run.info
    sweep = info.get("sweep") or {}
    values = config.model_dump(mode="json")
    hyperparameters = {k: cfg.value_at(values, k) for k in sweep.get("knobs", [])} | info.get("knobs", {})
    objectives = list(sweep.get("metrics") or [config.train.monitor])
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(run.path, hyperparameters, [SELECTED + name for name in objectives], epoch),
        "mlflow": lambda: Mlflow(run, values, hyperparameters, sweep.get("name"), log),
    }
    return Trackers(run, config.train, objectives, {name: makers[name] for name in config.report.trackers}, log)


class Trackers:
    """All trackers of a training."""

    def __init__(
        self,
        run: Run,
        train: cfg.Train,
        objectives: Sequence[str],
        makers: Mapping[str, Callable[[], Tracker]],
        log: Callable[[str], None],
    ) -> None:
        self._run, self._train, self._objectives, self._log = run, train, objectives, log
        self._open: dict[str, Tracker] = {}
        for name, make in makers.items():
            self._try(name, lambda name=name, make=make: self._open.update({name: make()}))  # type: ignore[misc]

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Send the metrics of an epoch, by name, to every tracker, after they were written to the run's metrics.csv."""
        if self._open:
            values = {**values, **self._selected()}
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(epoch, values))  # type: ignore[misc]

    def close(self, status: Status) -> None:
        """Send the final status of the training to every tracker."""
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.close(status))  # type: ignore[misc]
        self._open = {}

    def _selected(self) -> dict[str, float]:
        """The objectives at the epoch selected so far, if they are defined."""
        _, values, _ = runs.selected_values(self._run, self._train)
        return {SELECTED + name: values[name] for name in self._objectives if name in values}

    def _try(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._open.pop(name, None)
            self._log(f"warning: {name} failed and gets no more metrics; the training continues: {_reason(error)}")


def end(run: Run, config: cfg.Config, status: Status, *, log: Callable[[str], None]) -> None:
    """Set the final MLflow status of a trial whose own process could not: the scheduler may have stopped it, or it died."""
    run_id = run.info.get("mlflow_run")
    if "mlflow" not in config.report.trackers or run_id is None:
        return
    try:
        mlflow = client(run.path.parents[2])
        if mlflow.get_run(run_id).info.status == "RUNNING":
            mlflow.set_terminated(run_id, MLFLOW_STATUS[status])
    except Exception as error:
        log(f"warning: mlflow did not record the end of {run.path.name}: {_reason(error)}")


class TensorBoard:
    """An event file in the run folder; for a trial with its hyperparameters.

    Written synchronously: tensorboardX's SummaryWriter uses a thread that a full disk ends, and then blocks the training at its
    full queue. It also names files by the host."""

    def __init__(self, folder: Path, hyperparameters: Mapping[str, Any], objectives: Sequence[str], epoch: int) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter
        from tensorboardX.summary import hparams

        self._file = RecordWriter(str(folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}.cxr_ray"))
        self._write(file_version="brain.Event:2")
        if epoch:  # hides what an earlier start wrote for this epoch or later
            self._write(step=epoch, session_log=SessionLog(status=SessionLog.START))
        self._session = None
        if hyperparameters:
            shown = {k: v if isinstance(v, bool | int | float | str) else _text(v) for k, v in hyperparameters.items()}
            experiment, start, self._session = hparams(shown, dict.fromkeys(map(_tag, objectives), 0.0))
            self._write(summary=experiment)
            self._write(summary=start)
        self._file.flush()

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._write(step=epoch, summary=scalar(_tag(name), value))
        self._file.flush()

    def close(self, status: Status) -> None:
        """See `Tracker.close`."""
        if self._session is not None:
            self._write(summary=_session_end(status))
        self._file.flush()
        self._file.close()

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write(Event(wall_time=time.time(), **fields).SerializeToString())


class Mlflow:
    """A run in MLflow: the config as parameters, metrics per epoch, final status. A resumed training continues the same run.

    Requests that fail are queued and sent again when the server responds."""

    def __init__(
        self,
        run: Run,
        values: Mapping[str, Any],
        hyperparameters: Mapping[str, Any],
        sweep: str | None,
        log: Callable[[str], None],
    ) -> None:
        self._run, self._sweep, self._log = run, sweep, log
        self._parameters = {**parameters(values), **{_name(k): _text(v) for k, v in hyperparameters.items()}}
        self._queue: list[Callable[[], object]] = [self._begin]
        self._retry_at, self._warned = 0.0, False
        self._send()

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        for batch in _batches([Metric(_name(k), v, now, epoch) for k, v in values.items()], METRICS):
            self._queue.append(lambda batch=batch: self._client.log_batch(self._id, metrics=batch))  # type: ignore[misc]
        self._send()

    def close(self, status: Status) -> None:
        """See `Tracker.close`."""
        self._queue.append(lambda: self._client.set_terminated(self._id, MLFLOW_STATUS[status]))
        self._retry_at = 0.0
        self._send()
        if self._queue:
            self._log("warning: mlflow does not have all metrics of this training; the run folder has them")

    def _send(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        while self._queue:
            try:
                self._queue[0]()
            except Exception as error:
                if getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":  # a retry would fail too
                    raise
                if not self._warned:
                    self._log(
                        f"warning: mlflow does not respond; the training continues and sends metrics later: {_reason(error)}"
                    )
                self._warned, self._retry_at = True, time.monotonic() + RETRY_AFTER_S
                return
            del self._queue[0]

    def _begin(self) -> None:
        """Resume or create the run's MLflow run, and log missing parameters."""
        output = self._run.path.parents[2 if self._sweep else 0]
        # Two trials that create the SQLite file at once would both create its tables.
        with folder_lock(output) if uri(output).startswith("sqlite:") else nullcontext():
            self._client = client(output)
            experiment = self._experiment(output)
        from mlflow.entities import Param

        self._id, known = self._existing_run()
        if self._id is None:
            tags = {"cxr_ray.run": self._run.path.name} | ({"cxr_ray.sweep": self._sweep} if self._sweep else {})
            self._id = self._client.create_run(experiment, run_name=self._run.path.name, tags=tags).info.run_id
            self._run.update(mlflow_run=self._id)
        else:
            self._client.update_run(self._id, status="RUNNING")
        missing = [Param(k, v) for k, v in self._parameters.items() if k not in known]
        for batch in _batches(missing, PARAMETERS):
            self._client.log_batch(self._id, params=batch)

    def _existing_run(self) -> tuple[str | None, Mapping[str, str]]:
        """The MLflow run of an earlier start and its parameters; (None, {}) if this server has none."""
        from mlflow.exceptions import MlflowException

        run_id = self._run.info.get("mlflow_run")
        try:
            return (run_id, self._client.get_run(run_id).data.params) if run_id else (None, {})
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None, {}

    def _experiment(self, output: Path) -> str:
        """Id of the experiment, which is named after the sweep, else MLFLOW_EXPERIMENT_NAME, else cxr_ray."""
        from mlflow.exceptions import MlflowException

        name = self._sweep or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "cxr_ray"
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            local = uri(output).startswith("sqlite:")
            try:
                location = (output / "mlflow-artifacts").as_uri() if local else None
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException:  # two trials on two machines at once
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)


def uri(output: Path) -> str:
    """MLflow's tracking URI for runs in the folder `output`: MLFLOW_TRACKING_URI, else an SQLite file in `output`.

    MLflow 3 no longer accepts a folder of files (`mlruns`), and its own interface uses SQLite by default."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output.resolve() / 'mlflow.db'}"


def client(output: Path) -> Any:
    """An `MlflowClient` for `uri(output)`, with MLflow's telemetry disabled and short timeouts."""
    import logging

    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }.items():
        os.environ.setdefault(name, value)  # mlflow reads them at import and at each request
    from mlflow import MlflowClient

    for noisy in ("alembic", "mlflow.store.db.utils"):  # they log a hundred lines when the SQLite file is created
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri(output))


def commands(names: Sequence[str], folder: Path, output: Path) -> list[str]:
    """Shell commands to view the runs in `folder` (a sweep's trials, or one run) of the output folder `output`."""
    out = []
    if "tensorboard" in names:
        out.append(f"tensorboard --logdir {shlex.quote(str(folder))}")
    if "mlflow" in names:
        where = _without_secrets(uri(output))
        out.append(
            f"open {where}" if where.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(where)}"
        )
    return out


def parameters(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A config's values as MLflow's parameters: nested mappings as dotted names, without the section `tune`."""
    out: dict[str, str] = {}
    for key, value in values.items():
        if prefix or key != "tune":
            name = f"{prefix}{key}"
            out |= (
                parameters(value, f"{name}.") if isinstance(value, Mapping) and value else {_name(name): _text(value)}
            )
    return out


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:PARAMETER_LENGTH]


def _tag(name: str) -> str:
    """A valid TensorBoard tag: other characters become `_`."""
    return re.sub(r"[^-/\w.]", "_", name)


def _name(name: str) -> str:
    """A valid MLflow name: letters, digits and `/_.-: `, at most 250 characters; others become `_`."""
    return re.sub(r"[^-/\w.: ]", "_", name)[:250]


def _batches(values: list[Any], size: int) -> Iterator[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _reason(error: Exception) -> str:
    """The first line of an error, without passwords of URLs."""
    text = _without_secrets(str(error)).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:300]}"


def _without_secrets(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://", text)


def _session_end(status: Status) -> Any:
    from tensorboardX.proto.api_pb2 import Status as ApiStatus
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

    ended = ApiStatus.Value("STATUS_FAILURE" if status == "failed" else "STATUS_SUCCESS")
    content = HParamsPluginData(session_end_info=SessionEndInfo(status=ended), version=0).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    return Summary(
        value=[Summary.Value(tag="_hparams_/session_end_info", metadata=SummaryMetadata(plugin_data=plugin))]
    )
