"""The service on Ray: replicas of a model that answer in batches, and the HTTP server in this process that hands them bodies.

Serve's own proxy is not started: limits, token and log are those of the server here, whose port is the only one that answers HTTP. Ray's
own ports, as of any Ray, ask for Ray's token.
"""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from cxr_ray.errors import UserError
from cxr_ray.inference.decisions import Decisions
from cxr_ray.on_ray import cluster
from cxr_ray.runtime import machine
from cxr_ray.service.body import Limits, Refusal
from cxr_ray.service.grouping import FULL, Grouped

APP = "cxr-ray"
DEPLOYMENT = "Model"
ANSWER_S = 60.0
"""A request without an answer after this time gets 503; a replica that died is restarted meanwhile."""
QUEUED = 256
"""Requests that may wait for a replica."""
FEWEST_DECODERS = 6
"""Processes that decode, or one per core. On two cores more than two fill the batches while the model has the cores."""
DECODE_MEMORY = 6 * 2**30
"""Bytes that the decoder of one image may allocate; one at the pixel cap takes about 3 GiB."""
WAITING = {"OMP_WAIT_POLICY": "passive"}
"""Torch's threads sleep when they wait for each other. By default they spin, and while the decoders have the cores a batch then takes
fifty times as long (benchmarks/README.md, `serve`)."""
POLL_S = 0.05
"""Time between looks at `should_stop`."""
CALLS = 2
"""Calls under way to each replica: one is predicted while others are decoded and sent."""
RESTARTING = "the model is being restarted: send the request again later"


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """How a run is served."""

    run: str
    """Folder of the run, or a model file, on every node."""
    decisions: Decisions
    plugins: Sequence[str] = ()
    gpu: bool | str = "auto"
    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free port."""
    token: str
    metadata: Mapping[str, Any]
    """The answer of `/metadata`; its entry `model` is part of every prediction."""
    replicas: int = 1
    batch_size: int = 8
    """Most images of a batch: those that arrived while the calls under way were answered."""
    limits: Limits = field(default_factory=Limits)


class Model:
    """A replica: decodes in processes of its own, and predicts the images of a call as one batch."""

    def __init__(self, settings: ServiceSettings, threads: int) -> None:
        import numpy as np
        import torch

        from cxr_ray.inference import loading
        from cxr_ray.inference.answers import Decoders

        torch.set_num_threads(threads)
        self._settings = settings
        self._predictor = loading.load_predictor(settings.run, gpu=settings.gpu, plugins=settings.plugins)
        decoders = max(FEWEST_DECODERS, threads)
        self._decoders = Decoders(decoders, self._predictor.image_format, memory=DECODE_MEMORY).__enter__()
        self._threads = ThreadPoolExecutor(decoders, thread_name_prefix="cxr-decode")
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="cxr-model")
        blank = np.zeros((settings.batch_size, *self._predictor.image_format.size), np.uint8)
        self._predictor.probabilities(blank)  # the first batch takes longer

    async def answer_each(self, bodies: list[bytes]) -> list[dict[str, Any]]:
        """The answer for the bytes of each file, or why it is `refused`. Those that can be decoded are predicted in one batch."""
        from cxr_ray.inference.answers import answers

        loop = asyncio.get_running_loop()
        images = await asyncio.gather(*(loop.run_in_executor(self._threads, self._decode, body) for body in bodies))
        usable = [image for image in images if not isinstance(image, str)]
        found = iter(
            await loop.run_in_executor(self._model_thread, answers, self._predictor, self._settings.decisions, usable)
            if usable
            else ()
        )
        model = self._settings.metadata["model"]
        return [{"refused": image} if isinstance(image, str) else {**next(found), "model": model} for image in images]

    def _decode(self, body: bytes) -> Any:
        from cxr_ray.imaging.pixels import ImageError

        try:
            return self._decoders.decode(body)
        except ImageError as error:
            return error.reason

    def ready(self) -> int:
        """The process of the replica."""
        return os.getpid()


def serve(
    settings: ServiceSettings,
    *,
    address: str | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
    should_stop: threading.Event | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or `should_stop`. `on_ready` is called with the URL once requests are answered.

    Raises `UserError` if the extra is missing or the port is taken, before Ray starts, and `KeyboardInterrupt` after a SIGINT, once all
    has ended."""
    sockets = [_socket(settings.host, settings.port)]
    with _replicas(settings, address) as handle:
        ended_by = asyncio.run(_http(settings, handle, sockets, on_ready, should_stop))
    if ended_by == signal.SIGINT:
        raise KeyboardInterrupt


@contextmanager
def _replicas(settings: ServiceSettings, address: str | None) -> Any:
    """The handle of running replicas; they end with the block."""
    import torch
    from ray import serve

    local = cluster.is_local(address)
    cores = machine.cores() if local else None
    threads = max(1, ((cores or 2) - 1) // settings.replicas)
    gpus = 1 if settings.gpu is True or (settings.gpu == "auto" and torch.cuda.is_available()) else 0
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15: any other work on the machine would come first
    with cluster.session(address, num_cpus=max(cores, settings.replicas) if cores else None) as is_own:
        if not os.environ.get("CXR_RAY_DEBUG"):
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(proxy_location="Disabled")
        deployment: Any = serve.deployment(
            Model,
            name=DEPLOYMENT,
            num_replicas=settings.replicas,
            max_ongoing_requests=2 * CALLS,
            max_queued_requests=QUEUED,
            ray_actor_options={"num_cpus": 1, "num_gpus": gpus, "runtime_env": {"env_vars": WAITING}},
            health_check_period_s=2.0,
            graceful_shutdown_timeout_s=5.0,
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
        )
        try:
            yield serve.run(deployment.bind(settings, threads), name=APP, route_prefix=None)
        finally:
            if not is_own:  # one that was started here ends with everything in it
                serve.shutdown()


async def _http(
    settings: ServiceSettings,
    handle: Any,
    sockets: Sequence[Any],
    on_ready: Callable[[str], None],
    should_stop: threading.Event | None,
) -> int | None:
    """The HTTP server, until it is asked to stop. Returns the signal that asked, if it was one."""
    import uvicorn

    from cxr_ray.service.app import make_app

    app = make_app(
        _asker(handle, settings), _health(handle), settings.metadata, token=settings.token, limits=settings.limits
    )
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="critical",
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]  # ours end Ray afterwards

    ended_by: int | None = None

    def stop(number: int | None = None) -> None:
        nonlocal ended_by
        ended_by = ended_by or number
        server.should_exit = True

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    serving = asyncio.create_task(server.serve(sockets=list(sockets)))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if not serving.done():
        host, port = sockets[0].getsockname()[:2]
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    while should_stop is not None and not serving.done():
        if should_stop.is_set():
            stop()
        await asyncio.sleep(POLL_S)
    await serving
    return ended_by


def _asker(handle: Any, settings: ServiceSettings) -> Callable[[bytes], Any]:
    """From a body to the answer of a replica. Raises `Refusal` with 503 if there is none to answer."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

    async def call(bodies: list[bytes]) -> Sequence[Mapping[str, Any]]:
        answers: Sequence[Mapping[str, Any]] = await handle.answer_each.remote(bodies)
        return answers

    grouped = Grouped(call, most=settings.batch_size, calls=CALLS * settings.replicas, waiting=QUEUED)

    async def ask(body: bytes) -> Mapping[str, Any]:
        try:
            return await asyncio.wait_for(grouped(body), ANSWER_S)
        except BackPressureError:
            raise Refusal(503, FULL, retry_s=1) from None
        except (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError, TimeoutError):
            raise Refusal(503, RESTARTING, retry_s=5) from None

    return ask


def _health(handle: Any) -> Callable[[], Any]:
    """Whether a replica answers within two seconds."""

    async def is_healthy() -> bool:
        try:
            await asyncio.wait_for(handle.ready.remote(), 2.0)
        except Exception:
            return False
        return True

    return is_healthy


def _socket(host: str, port: int) -> Any:
    """A listening socket. Raises `UserError` if the port is taken."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(128)
        return made
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen on {host} port {port} ({why}); give another --port, or 0 for any free one"
        ) from None
