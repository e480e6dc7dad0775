"""What a worker of a training does on its node before it trains, without Ray."""

from pathlib import Path

import pytest
import ray

from cxr_ray import runs
from cxr_ray.data import plan as plans
from cxr_ray.errors import UserError
from cxr_ray.on_ray import launch
from tests.fakes import trainings
from tests.fakes.store import fake_store


def run_of(folder: Path, store: Path, verify: str) -> runs.Run:
    config = trainings.config(folder, data={"verify": verify}, name=verify)
    plan = plans.build(fake_store(40), config.data, seed=config.seed, pos_weight_power=config.loss.pos_weight_power)
    described = {**trainings.STORE, "path": str(store)}
    about = {"labels": list(plan.labels), "task": plan.task}
    runs.create(config.for_task(plan.task), store=described, plan=plan.table(), about=about)
    return runs.load(folder / verify)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A store with one changed byte: neither the size nor the name of its file tells."""
    folder = trainings.write_store(tmp_path / "store", fake_store(40))
    shard = next(folder.glob("*.arrow"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    return folder


def test_one_worker_of_a_node_checks_every_byte_if_asked(damaged: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, damaged, "full")
    with pytest.raises(UserError, match=r"\.arrow \(rows .*has changed: its checksum differs, on the node"):
        launch.open_on_node(run, local_rank=0)
    assert len(launch.open_on_node(run, local_rank=1).index) == 40


@pytest.mark.parametrize("verify", ["manifest", "background", "none"])
def test_else_no_worker_waits_for_a_check(verify: str, damaged: Path, tmp_path: Path) -> None:
    assert len(launch.open_on_node(run_of(tmp_path, damaged, verify), local_rank=0).index) == 40


@pytest.mark.parametrize("others", [0, 1])
def test_a_store_that_cannot_be_opened_is_said_with_the_node_if_there_are_several(
    others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = {"Alive": False}
    monkeypatch.setattr(ray, "nodes", lambda: [lost, *[{"Alive": True}] * (1 + others)])
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.7")
    run = run_of(tmp_path, tmp_path / "gone", "full")
    with pytest.raises(UserError, match="gone") as said:
        launch.open_on_node(run, local_rank=0)
    assert str(said.value).startswith("on the node 192.0.2.7: ") == bool(others)
