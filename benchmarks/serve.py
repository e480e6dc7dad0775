"""The service against the model alone: images/s, latencies, and which process the time goes to.

    python benchmarks/serve.py RUN IMAGES [--clients 8] [--rounds 5] [--seconds 10]

RUN is a run, IMAGES a folder of PNG, JPEG or DICOM. Each round measures the model's own images/s in batches of decoded images in
this process, then what the clients get from the service, on the same cores; the service waits meanwhile. Other work on the machine
slows both, so the median of the rounds' ratios counts. CPU times are per image.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ["OMP_WAIT_POLICY"] = (
    "passive"  # as the service's replicas: threads that spin lose most on a machine with other work
)

import numpy as np
import psutil
import torch

from cxr_ray.inference.loading import load_predictor


class Service:
    """The command, on a free port."""

    def __init__(self, run: Path, token: Path) -> None:
        command = [sys.executable, "-m", "cxr_ray", "serve", str(run), "--port", "0", "--token-file", str(token)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"ready: http://(.*):(\d+)", line):
                self.host, self.port = found[1], int(found[2])
                break
        self.token = token.read_text().strip()

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far by kind of process."""
        found: dict[str, float] = {}
        for process in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            try:
                times, line = process.cpu_times(), " ".join(process.cmdline())
            except psutil.Error:
                continue
            kind = (
                "HTTP server" if process.pid == self.process.pid
                else "decoders" if "isolated" in line
                else "replica" if "ServeReplica" in line
                else "Ray"
            )  # fmt: skip
            found[kind] = found.get(kind, 0.0) + times.user + times.system
        return found


def load(service: Service, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    """Latencies in seconds of the requests that `clients` make one after the other."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(service.host, service.port)
        headers = {"Authorization": f"Bearer {service.token}"}
        at = number
        while (start := time.perf_counter()) < end:
            connection.request("POST", "/predict", body=bodies[at % len(bodies)], headers=headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                raise SystemExit(f"status {response.status}: {answer}")
            latencies.append(time.perf_counter() - start)
            at += clients

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def model_rate(predictor: Any, batch: Any, seconds: float) -> tuple[float, float]:
    """Images per second of the model alone, and its CPU seconds per image."""
    predictor.probabilities(batch)
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        predictor.probabilities(batch)
        count += len(batch)
    return count / (time.perf_counter() - start), (time.process_time() - cpu) / count


def main() -> None:
    """Measure, and print a line a round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batch-size", type=int, default=8, help="of the model alone; the service has its own")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    files = sorted(file for file in args.images.iterdir() if file.is_file())[:200]
    bodies = [file.read_bytes() for file in files]
    predictor = load_predictor(args.run)
    size = predictor.image_format.size
    batch = np.random.default_rng(0).integers(0, 256, (args.batch_size, *size), dtype=np.uint8)
    service = Service(args.run, args.run.parent / f"{args.run.name}.token")
    rounds: list[tuple[float, float]] = []
    latencies: list[float] = []
    alone_ms: list[float] = []
    cpu: dict[str, float] = {}
    try:
        load(service, bodies, args.clients, 3.0)
        for _ in range(args.rounds):
            alone, alone_cpu_s = model_rate(predictor, batch, args.seconds / 2)
            alone_ms.append(1000 * alone_cpu_s)
            before, own = service.cpu_s(), time.process_time()
            start = time.perf_counter()
            found = load(service, bodies, args.clients, args.seconds)
            served = len(found) / (time.perf_counter() - start)
            after = {**service.cpu_s(), "clients": time.process_time() - own}
            for kind, seconds in after.items():
                cpu[kind] = cpu.get(kind, 0.0) + seconds - before.get(kind, 0.0)
            rounds.append((alone, served))
            latencies += found
            print(f"model alone {alone:.1f} images/s, served {served:.1f} ({served / alone:.2f})", flush=True)
    finally:
        service.process.terminate()
        service.process.wait(60)
    ratio = statistics.median(served / alone for alone, served in rounds)
    p50, p99 = np.percentile(np.array(latencies) * 1000, [50, 99])
    print(f"median of ratios {ratio:.2f}; p50 {p50:.0f} ms, p99 {p99:.0f} ms over {len(latencies)} requests")
    print(
        f"CPU ms an image: model alone {statistics.median(alone_ms):.1f}; served: "
        + ", ".join(f"{kind} {1000 * s / len(latencies):.1f}" for kind, s in cpu.items())
    )


if __name__ == "__main__":
    main()
