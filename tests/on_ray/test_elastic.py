"""Elastic training while nodes leave and join: two workers, then one, then two, with the batches of a run of fixed size."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_ray import runs
from cxr_ray.data import loader
from cxr_ray.data import store as stores
from tests.fakes.waiting import until

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 5  # of 16 seconds each: Ray checks for new nodes once a minute


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of one node for one worker, to which nodes can be added."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("CXR_RAY_TEST_STEP_S", "1.0")  # workers on the nodes inherit it
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def attempts(run: Path) -> list[dict[tuple[int, int], list[tuple[int, ...]]]]:
    """Per rank: the rows of every attempt at a step (epoch, batch), in order of time."""
    by_rank: list[dict[tuple[int, int], list[tuple[int, ...]]]] = []
    for rank in range(2):
        file = run / "rows" / f"rank-{rank}.csv"
        tried: dict[tuple[int, int], list[tuple[int, ...]]] = {}
        for line in csv.reader(file.open()) if file.exists() else []:
            if len(line) == 4:  # the last line of a killed rank may be incomplete
                tried.setdefault((int(line[0]), int(line[1])), []).append(tuple(map(int, line[3].split())))
        by_rank.append(tried)
    return by_rank


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_losing_and_regaining_a_worker_changes_no_batch(store, tmp_path, nodes):
    second = nodes.add_node(num_cpus=1)
    settings = {
        "data.shards": store, "output": tmp_path, "name": "elastic", "plugins": "[tests.fakes.slow_model]", "model.name": "slow",
        "train.epochs": EPOCHS, "train.batch_size": 8, "train.workers": 2, "train.min_workers": 1, "train.checkpoint_minutes": 0.05,
        "train.resources_per_worker": "{CPU: 1}", "train.log_rows": "true", "train.max_failures": 5,
    }  # fmt: skip
    command = [sys.executable, "-m", "cxr_ray", "train", "--address", nodes.address]
    command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    log = (tmp_path / "out.txt").open("w")
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, text=True, env={**os.environ})
    run = tmp_path / "elastic"

    def tried(rank: int) -> int:
        return sum(map(len, attempts(run)[rank].values()))

    def alone() -> bool:  # rank 0 has processed a complete batch
        return any(len(rows) == 8 for rows in attempts(run)[0].get(max(attempts(run)[0], default=(0, 0)), []))

    try:
        seconds = {"two workers started": until(lambda: tried(1) >= 5, 240, process)}
        nodes.remove_node(second, allow_graceful=False)
        seconds["one continued after the other's node was lost"] = until(alone, 240, process)
        tried_before = tried(1)
        nodes.add_node(num_cpus=1)
        seconds["two again after a node joined"] = until(lambda: tried(1) > tried_before, 240, process)
        started = time.monotonic()
        assert process.wait(timeout=300) == 0
        seconds["the rest"] = time.monotonic() - started
    finally:
        process.kill()
        log.close()
        print((tmp_path / "out.txt").read_text()[-6000:])
    print(json.dumps({what: round(s, 1) for what, s in seconds.items()}, indent=1))

    done = runs.load(run)
    assert done.info["status"] == "finished" and done.info["workers"] == 2
    opened = stores.open(store)
    plan = runs.plan_of(done, opened)
    zero, one = attempts(run)
    sizes = set()
    for epoch in range(1, EPOCHS + 1):
        order = plan.rows["train"][loader.epoch_order(plan.repeats, seed=0, epoch=epoch)]
        seen = []
        for step in range(-(-len(order) // 8)):
            batch = list(zero[epoch, step][-1])
            shared = len(batch) < len(order[step * 8 : step * 8 + 8])
            batch += one[epoch, step][-1] if shared else ()
            sizes.add(1 + shared)
            seen += batch
        np.testing.assert_array_equal(seen, order)
    assert sizes == {1, 2}
    assert done.metrics["epoch"].max() == EPOCHS
