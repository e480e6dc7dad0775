"""The service on a real Ray, over real HTTP: many clients at once, and a replica that is killed."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from PIL import Image

from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.inference import predictor
from cxr_ray.inference.decisions import Decisions
from tests.fakes import trainings
from tests.fakes.http_server import ask
from tests.fakes.pictures import gigapixel_png
from tests.fakes.store import fake_store

pytest.importorskip("uvicorn")
pytestmark = pytest.mark.ray

TOKEN = "a token of the test"


class Service(NamedTuple):
    port: int
    bodies: list[bytes]
    probabilities: Any


@pytest.fixture(scope="module")
def service(ray_local: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    from cxr_ray.on_ray import serve

    folder = tmp_path_factory.mktemp("service")
    store = stores.open(trainings.write_store(folder / "shards", fake_store(40)))
    run = trainings.fit(trainings.config(folder), store)
    bodies = []
    for image in store.images(store.index["row"]):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "png")
        bodies.append(buffer.getvalue())
    found = predictor.load(run)
    settings = serve.ServiceSettings(
        run=str(run.path),
        decisions=Decisions(found.labels, found.task, dict.fromkeys(found.labels, 0.5), "given"),
        port=0,
        token=TOKEN,
        metadata={"model": {"name": "run"}},
    )
    urls: list[str] = []
    stop, ready = threading.Event(), threading.Event()

    def started(url: str) -> None:
        urls.append(url)
        ready.set()

    def start() -> None:
        try:
            serve.serve(settings, on_ready=started, should_stop=stop)
        finally:
            ready.set()

    thread = threading.Thread(target=start)
    thread.start()
    assert ready.wait(120) and urls[0].startswith("http://127.0.0.1:")
    yield Service(int(urls[0].rpartition(":")[2]), bodies, found(store.images(store.index["row"])))
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def test_many_clients_get_the_answers_of_the_predictor(service: Service) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(
            clients.map(lambda body: ask(service.port, "POST", "/predict", body, token=TOKEN), service.bodies)
        )
    assert {one.status for one in answers} == {200}
    found = [list(one.body["probabilities"].values()) for one in answers]
    np.testing.assert_allclose(found, service.probabilities, atol=1e-5)
    assert answers[0].body["model"] == {"name": "run"}
    assert ask(service.port, "POST", "/predict", b"hello", token=TOKEN).status == 415
    large = ask(service.port, "POST", "/predict", gigapixel_png(), token=TOKEN)
    assert large.status == 422 and "over the pixel cap" in large.body["error"]
    assert ask(service.port, "POST", "/predict", (bytes(2**20) for _ in range(200)), token=TOKEN).status == 413
    assert ask(service.port, "POST", "/predict", service.bodies[0]).status == 401


def test_a_killed_replica_is_restarted(service: Service) -> None:
    from ray import serve as ray_serve

    process = ray_serve.get_app_handle("cxr-ray").ready.remote().result(timeout_s=10)
    os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 90
    statuses: list[int] = []
    while time.monotonic() < deadline and (not statuses or statuses[-1] != 200):
        answer = ask(service.port, "POST", "/predict", service.bodies[0], token=TOKEN, timeout_s=90)
        statuses.append(answer.status)
        assert answer.status in (200, 503) and (answer.status == 200 or "restarted" in answer.body["error"])
    assert statuses[-1] == 200
    assert ray_serve.get_app_handle("cxr-ray").ready.remote().result(timeout_s=10) != process
    assert ask(service.port, "GET", "/health")[:2] == (200, {"status": "ok"})


@pytest.mark.long  # starts Ray of its own: 20 s
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_the_command_and_its_ray(tmp_path: Path, number: signal.Signals, code: int) -> None:
    run = trainings.fit(trainings.config(tmp_path), fake_store(20))
    command = [sys.executable, "-m", "cxr_ray", "serve", str(run.path), "--port", "0", "--no-gpu"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("ready: ") for line in process.stdout)
        others = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)  # as a terminal does: to all processes of the command
        rest = process.stdout.read()
        assert process.wait(60) == code
    assert len(others) > 3 and "Traceback" not in rest
    assert rest.splitlines()[-1] == ("cxr-ray: interrupted" if code else "stopped")
    _, alive = psutil.wait_procs(others, timeout=10)
    assert not alive


def test_a_port_that_is_taken_is_refused_before_ray_starts(service: Service) -> None:
    from cxr_ray.on_ray import serve

    settings = serve.ServiceSettings(
        run="none", decisions=Decisions((), "binary", {}, ""), port=service.port, token=TOKEN, metadata={}
    )
    with pytest.raises(UserError, match=f"port {service.port}"):
        serve.serve(settings)
