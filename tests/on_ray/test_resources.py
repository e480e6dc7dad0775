"""How many workers and trials fit on a cluster: counted node by node, because a worker must fit on one."""

import pytest

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.on_ray.resources import (
    NodeType,
    Room,
    TrialResources,
    WorkerResources,
    check_capacity,
    check_cores,
    this_machine,
)
from cxr_ray.runtime import machine


def config(**sections) -> cfg.Config:
    return cfg.validate({"data": {"shards": "x"}, **sections})


def test_a_worker_that_fits_on_no_node_is_an_error_even_if_the_sum_is_enough():
    nodes = [{"CPU": 4.0}, {"CPU": 4.0}]
    with pytest.raises(
        UserError,
        match=r"none of the cluster's 2 nodes has 6 CPUs: each worker must fit on one node; lower .*, or start larger nodes",
    ):
        check_capacity({"CPU": 6.0}, 1, Room(nodes))
    with pytest.raises(
        UserError, match=r"2 nodes have room for 2 of 3 workers with 2\.5 CPUs: each worker must fit on one"
    ):
        check_capacity({"CPU": 2.5}, 3, Room(nodes))
    assert check_capacity({"CPU": 1.5}, 1, Room(nodes)) == 4  # the sum, 8, would allow five
    with pytest.raises(UserError, match="3 workers need 9 CPUs, but the cluster has 8"):
        check_capacity({"CPU": 3.0}, 3, Room(nodes))
    with pytest.raises(UserError, match="did you mean 'highmem'"):
        check_capacity({"CPU": 1.0, "highmen": 1.0}, 1, Room([{"CPU": 4.0, "highmem": 2.0, "node:10.0.0.1": 1.0}]))


def test_trials_share_gpus_as_ray_assigns_them():
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 2.0}]
    assert TrialResources.of(config(tune={"trial_gpus": 0.25}), Room(nodes)).max_concurrent("auto") == 8
    # A fraction is taken from a single GPU; 2 / 0.6 would give 3.
    assert TrialResources.of(config(tune={"trial_gpus": 0.6}), Room(nodes)).max_concurrent("auto") == 2
    resources = TrialResources.of(config(train={"workers": 2}), Room(nodes))
    assert resources.max_concurrent("auto") == 1 and str(resources) == "2 workers with 1 CPU and 1 GPU each"
    assert TrialResources.of(config(train={"gpu": False}), Room(nodes)).max_concurrent("auto") == 18
    assert TrialResources.of(config(train={"gpu": False}), Room(nodes)).max_concurrent(3) == 3
    with pytest.raises(UserError, match=r"asks for part of a GPU, but train\.gpu is false"):
        TrialResources.of(config(train={"gpu": False}, tune={"trial_gpus": 0.5}), Room(nodes))


def test_workers_of_trials_are_counted_node_by_node():
    nodes = [{"CPU": 3.0}] * 3
    resources = TrialResources.of(config(train={"workers": 2, "resources_per_worker": {"CPU": 2}}), Room(nodes))
    assert resources.cluster_workers == 3 and resources.max_concurrent("auto") == 1  # the sum, 9, would allow two
    assert (
        TrialResources.of(config(train={"workers": 3, "resources_per_worker": {"CPU": 1}}), Room(nodes)).max_concurrent(
            "auto"
        )
        == 3
    )


def train(**settings) -> cfg.Train:
    return config(train=settings).train


def test_the_workers_of_a_training_share_the_cores_of_this_machine_and_have_one_each_on_a_cluster(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    here = Room([this_machine(3)])
    assert here.nodes[0]["CPU"] == 8
    assert WorkerResources.of(train(workers=3), here).per_worker == {"CPU": 2}
    assert WorkerResources.of(train(workers=3), Room([{"CPU": 8.0}])).per_worker == {"CPU": 1}
    given = WorkerResources.of(train(workers=2, resources_per_worker={"CPU": 3}), here)
    assert given == WorkerResources({"CPU": 3}, use_gpu=False)
    assert WorkerResources.of(train(workers=2), Room([this_machine(2, gpus=2)])).use_gpu
    with pytest.raises(UserError, match="2 workers need 2 GPUs, but this machine has 1; lower train"):
        WorkerResources.of(train(workers=2, gpu=True), Room([this_machine(2, gpus=1)]))


def test_more_workers_than_this_machine_has_cores_is_an_error_but_two_may_share_one(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 1)
    assert WorkerResources.of(train(workers=2), Room([this_machine(2)])).per_worker == {"CPU": 1}
    for settings in ({"workers": 3}, {"workers": 99}, {"workers": 99, "min_workers": 3}):
        count = settings.get("min_workers", settings["workers"])
        with pytest.raises(
            UserError, match=f"{count} workers need {count} CPUs, but this machine has 2; lower .*per_worker$"
        ):
            WorkerResources.of(train(**settings), Room([this_machine(settings["workers"])]))
    WorkerResources.of(train(workers=99, min_workers=2), Room([this_machine(99)]))  # starts with those that fit
    with pytest.raises(UserError, match="4 workers need 4 CPUs, but this machine has 2"):
        TrialResources.of(config(train={"workers": 4}), Room([this_machine(4)]))


def test_an_ingest_takes_no_more_cores_than_there_are(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 4)
    check_cores(None)
    check_cores(4)
    with pytest.raises(UserError, match="5 cores are asked for, but this machine has 4; lower --cpus, or leave it out"):
        check_cores(5)


GPU_NODE = NodeType({"CPU": 8.0, "GPU": 1.0}, 4)
CPU_NODE = NodeType({"CPU": 16.0}, 4)


def test_what_the_autoscaler_may_start_counts_but_not_beyond_its_limits():
    """The head of 0 CPUs and workers from none, as in cluster.yaml."""
    room = Room([{"memory": 1e9}], [{"memory": 1e9}], [CPU_NODE, GPU_NODE], more=5)
    assert check_capacity({"CPU": 8.0}, 9, room) == 9  # four nodes for two workers, and one more
    with pytest.raises(
        UserError,
        match=r"10 workers need 80 CPUs, but the cluster, with all nodes that its autoscaler may start, has 72; .*, or let the autoscaler",
    ):
        check_capacity({"CPU": 8.0}, 10, room)
    assert check_capacity({"CPU": 1.0, "GPU": 1.0}, 4, room) == 4
    assert WorkerResources.of(train(workers=4), room) == WorkerResources({"CPU": 1.0}, use_gpu=True)
    assert WorkerResources.of(train(workers=5), room) == WorkerResources({"CPU": 1.0}, use_gpu=False)
    assert TrialResources.of(config(), room).max_concurrent("auto") == 4
    with pytest.raises(UserError, match="5 workers need 5 GPUs"):
        WorkerResources.of(train(workers=5, gpu=True), room)


def test_nothing_is_impossible_for_an_autoscaler_of_unknown_node_types():
    room = Room([{"memory": 1e9}], is_open=True)
    assert check_capacity({"CPU": 96.0, "GPU": 8.0}, 3, room) == 3
    assert WorkerResources.of(train(workers=64), room).use_gpu is False
    assert TrialResources.of(config(tune={"trial_gpus": 0.5}), room).max_concurrent("auto") == 1


def test_what_is_free_is_counted_node_by_node():
    assert Room([], [{"CPU": 3.0}, {"CPU": 1.5}, {}]).free_for({"CPU": 1.5}) == 3
    assert Room([], [{"CPU": 8.0, "GPU": 0.0}]).free_for({"CPU": 1.0, "GPU": 1.0}) == 0


def test_nodes_have_to_be_started_only_for_what_those_that_live_cannot_hold():
    busy = Room([{"CPU": 4.0}], [{"CPU": 0.0}], (NodeType({"CPU": 2.0}, 1),), 1)
    assert not busy.needs_nodes({"CPU": 2.0}, 2) and busy.needs_nodes({"CPU": 2.0}, 3)
    assert not Room([{"CPU": 4.0}]).needs_nodes({"CPU": 2.0}, 3), "nobody starts any"
    assert Room([{"CPU": 4.0}], is_open=True).needs_nodes({"CPU": 2.0}, 3)
