"""Where a training's metrics go besides the run folder's tables: TensorBoard's event files, MLflow. Trouble there is one line
of warning, never the training's end."""

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
from cxr_ray.storage.atomic import one_at_a_time

Status = Literal["finished", "stopped", "failed"]
KEPT = "kept/"
"""Before the names of metrics at the epoch that is kept so far: what a sweep judges by, where `val/...` is the newest epoch's."""
NEEDS = {"tensorboard": ("tensorboardX",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Modules that each tracker imports: `cxr_ray[mlflow]` brings the second's."""
AGAIN_S = 60.0
"""A server that failed is left alone for so long: a training must not wait for it at every epoch."""
ENDS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""MLflow's words for how a run ended."""
PARAMETER_LENGTH, PARAMETERS, METRICS = 6000, 100, 1000
"""MLflow's limits: characters of a parameter, parameters and metrics of one request (mlflow.utils.validation, 3.17)."""


class Tracker(Protocol):
    """One place that metrics go to."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Take the metrics of an epoch, by name (`val/auroc/Edema`)."""

    def close(self, status: Status) -> None:
        """Take note of how the training ended, and let go of files and connections."""


def check(names: Sequence[str]) -> None:
    """Raises `UserError` where a tracker of `report.trackers` is not installed."""
    for name in names:
        missing = [m for m in NEEDS[name] if importlib.util.find_spec(m) is None]
        if missing:
            extra = f"'cxr_ray[{name}]'" if name == "mlflow" else missing[0]
            raise UserError(
                f"report.trackers names {name}, but {', '.join(missing)} cannot be imported: pip install -c constraints.txt "
                f"{extra}, or leave {name} out"
            )


def open(run: Run, config: cfg.Config, *, log: Callable[[str], None], epoch: int = 0) -> "Trackers":
    """The trackers of `report.trackers` for a training whose next epoch is `epoch`; rank 0 alone opens them.

    A trial's run.json says `knobs` (by dotted name) and `sweep` (its name, the names of all `knobs` and of the objectives,
    `metrics`)."""
    info = run.info
    sweep = info.get("sweep") or {}
    values = config.model_dump(mode="json")
    hyperparameters = {k: cfg.value_at(values, k) for k in sweep.get("knobs", [])} | info.get("knobs", {})
    objectives = list(sweep.get("metrics") or [config.train.monitor])
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(run.path, hyperparameters, [KEPT + name for name in objectives], epoch),
        "mlflow": lambda: Mlflow(run, values, hyperparameters, sweep.get("name"), log),
    }
    return Trackers(run, config.train, objectives, {name: makers[name] for name in config.report.trackers}, log)


class Trackers:
    """All trackers of a training together."""

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
        """Give the metrics of an epoch, by name, to every tracker, once the run's metrics.csv holds them."""
        if self._open:
            values = {**values, **self._kept()}
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(epoch, values))  # type: ignore[misc]

    def close(self, status: Status) -> None:
        """Tell every tracker how the training ended."""
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.close(status))  # type: ignore[misc]
        self._open = {}

    def _kept(self) -> dict[str, float]:
        """The objectives at the epoch whose model is kept so far, where they are defined."""
        _, named, _ = runs.selected_values(self._run, self._train)
        return {KEPT + name: named[name] for name in self._objectives if name in named}

    def _try(self, name: str, what: Callable[[], object]) -> None:
        try:
            what()
        except Exception as error:
            self._open.pop(name, None)
            self._log(f"warning: {name} gets nothing more of this training, which goes on: {_reason(error)}")


def end(run: Run, config: cfg.Config, status: Status, *, log: Callable[[str], None]) -> None:
    """Tell MLflow how a trial ended whose own process could not: its scheduler may have taken it first, or it died."""
    held = run.info.get("mlflow_run")
    if "mlflow" not in config.report.trackers or held is None:
        return
    try:
        to = client(run.path.parents[2])
        if to.get_run(held).info.status == "RUNNING":
            to.set_terminated(held, ENDS[status])
    except Exception as error:
        log(f"warning: mlflow was not told how {run.path.name} ended: {_reason(error)}")


class TensorBoard:
    """An event file in the run folder, its hyperparameters with it where the run is a trial.

    Written in step: tensorboardX's SummaryWriter hands events to a thread, which a full disk ends, and then blocks the training
    at its full queue; its files are named by the host."""

    def __init__(self, folder: Path, hyperparameters: Mapping[str, Any], objectives: Sequence[str], epoch: int) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter
        from tensorboardX.summary import hparams

        self._file = RecordWriter(str(folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}.cxr_ray"))
        self._write(file_version="brain.Event:2")
        if epoch:  # what an earlier start has written of this epoch or later is not shown
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

    def _write(self, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write(Event(wall_time=time.time(), **what).SerializeToString())


class Mlflow:
    """A run in MLflow: the config as parameters, metrics by epoch, an end. A training that goes on goes on in the same run.

    What a server did not take is kept and sent when it answers again."""

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
        self._waiting: list[Callable[[], object]] = [self._begin]
        self._again, self._warned = 0.0, False
        self._send()

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        for some in _pieces([Metric(_name(k), v, now, epoch) for k, v in values.items()], METRICS):
            self._waiting.append(lambda some=some: self._client.log_batch(self._id, metrics=some))  # type: ignore[misc]
        self._send()

    def close(self, status: Status) -> None:
        """See `Tracker.close`."""
        self._waiting.append(lambda: self._client.set_terminated(self._id, ENDS[status]))
        self._again = 0.0
        self._send()
        if self._waiting:
            self._log("warning: mlflow did not take all of this training; the run folder holds it")

    def _send(self) -> None:
        if time.monotonic() < self._again:
            return
        while self._waiting:
            try:
                self._waiting[0]()
            except Exception as error:
                if getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":  # it would be refused again
                    raise
                if not self._warned:
                    self._log(
                        f"warning: mlflow does not answer, the training goes on and sends it later: {_reason(error)}"
                    )
                self._warned, self._again = True, time.monotonic() + AGAIN_S
                return
            del self._waiting[0]

    def _begin(self) -> None:
        """The run's own MLflow run, started again or made; parameters that it lacks."""
        output = self._run.path.parents[2 if self._sweep else 0]
        # Two trials that make the SQLite file at once would both lay its tables out.
        with one_at_a_time(output) if uri(output).startswith("sqlite:") else nullcontext():
            self._client = client(output)
            experiment = self._experiment(output)
        from mlflow.entities import Param

        self._id, known = self._earlier()
        if self._id is None:
            tags = {"cxr_ray.run": self._run.path.name} | ({"cxr_ray.sweep": self._sweep} if self._sweep else {})
            self._id = self._client.create_run(experiment, run_name=self._run.path.name, tags=tags).info.run_id
            self._run.update(mlflow_run=self._id)
        else:
            self._client.update_run(self._id, status="RUNNING")
        missing = [Param(k, v) for k, v in self._parameters.items() if k not in known]
        for some in _pieces(missing, PARAMETERS):
            self._client.log_batch(self._id, params=some)

    def _earlier(self) -> tuple[str | None, Mapping[str, str]]:
        """The MLflow run that an earlier start made, and its parameters; (None, {}) where this store has none."""
        from mlflow.exceptions import MlflowException

        held = self._run.info.get("mlflow_run")
        try:
            return (held, self._client.get_run(held).data.params) if held else (None, {})
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None, {}

    def _experiment(self, output: Path) -> str:
        """The experiment's id: the sweep's, else MLFLOW_EXPERIMENT_NAME's, else cxr_ray's."""
        from mlflow.exceptions import MlflowException

        name = self._sweep or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "cxr_ray"
        found = self._client.get_experiment_by_name(name)
        if found is None:
            local = uri(output).startswith("sqlite:")
            try:
                place = (output / "mlflow-artifacts").as_uri() if local else None
                return str(self._client.create_experiment(name, artifact_location=place))
            except MlflowException:  # two trials on two machines at once
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)


def uri(output: Path) -> str:
    """Where MLflow logs for runs in the folder `output`: MLFLOW_TRACKING_URI, else an SQLite file beside the runs.

    MLflow 3 refuses folders of files as a store (`mlruns`), and what its own interface opens by default is SQLite."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output.resolve() / 'mlflow.db'}"


def client(output: Path) -> Any:
    """An `MlflowClient` of `uri(output)`, without MLflow's reports of usage to its makers, and with short waits for a server."""
    import logging

    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }.items():
        os.environ.setdefault(name, value)  # read by mlflow at its import and at each request
    from mlflow import MlflowClient

    for noisy in ("alembic", "mlflow.store.db.utils"):  # a hundred lines where the SQLite file is made
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri(output))


def commands(names: Sequence[str], folder: Path, output: Path) -> list[str]:
    """What to type to look at the runs in `folder` (a sweep's trials, or one run) of the output folder `output`."""
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
    """A config's plain values as MLflow's parameters: dotted names, mappings opened, the sweep's block left out."""
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
    """As TensorBoard's own tags: what else a label holds becomes `_`."""
    return re.sub(r"[^-/\w.]", "_", name)


def _name(name: str) -> str:
    """As MLflow's names of parameters and metrics: letters, digits and `/_.-: `, at most 250."""
    return re.sub(r"[^-/\w.: ]", "_", name)[:250]


def _pieces(values: list[Any], size: int) -> Iterator[list[Any]]:
    return (values[at : at + size] for at in range(0, len(values), size))


def _reason(error: Exception) -> str:
    """The first line of an error, with no password of an address in it."""
    text = _without_secrets(str(error)).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:300]}"


def _without_secrets(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://", text)


def _session_end(status: Status) -> Any:
    from tensorboardX.proto.api_pb2 import Status as Ended
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

    ended = Ended.Value("STATUS_FAILURE" if status == "failed" else "STATUS_SUCCESS")
    content = HParamsPluginData(session_end_info=SessionEndInfo(status=ended), version=0).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    return Summary(
        value=[Summary.Value(tag="_hparams_/session_end_info", metadata=SummaryMetadata(plugin_data=plugin))]
    )
