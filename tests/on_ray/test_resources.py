"""What fits a cluster: node by node, since a worker lies on one."""

import pytest

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.on_ray.resources import Room, check_room


def made(**sections) -> cfg.Config:
    return cfg.validate({"data": {"shards": "x"}, **sections})


def test_a_worker_that_no_node_holds_is_refused_though_the_sum_would_do():
    nodes = [{"CPU": 4.0}, {"CPU": 4.0}]
    with pytest.raises(
        UserError, match="a worker of 6 CPU lies on one node, and the cluster's 2 nodes hold 0 of the 1"
    ):
        check_room({"CPU": 6.0}, 1, nodes)
    assert check_room({"CPU": 1.5}, 1, nodes) == 4  # of the sum, 8, there would be five
    with pytest.raises(UserError, match="3 workers want 9 CPU, and the cluster has 8"):
        check_room({"CPU": 3.0}, 3, nodes)
    with pytest.raises(UserError, match="did you mean 'highmem'"):
        check_room({"CPU": 1.0, "highmen": 1.0}, 1, [{"CPU": 4.0, "highmem": 2.0, "node:10.0.0.1": 1.0}])


def test_trials_share_gpus_as_ray_gives_them():
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 2.0}]
    assert Room.of(made(tune={"trial_gpus": 0.25}), nodes).at_once("auto") == 8
    # A part is of one GPU: 2 / 0.6 would be 3.
    assert Room.of(made(tune={"trial_gpus": 0.6}), nodes).at_once("auto") == 2
    room = Room.of(made(train={"workers": 2}), nodes)
    assert room.at_once("auto") == 1 and room.said() == "2 workers of 1 CPU and 1 GPU"
    assert Room.of(made(train={"gpu": False}), nodes).at_once("auto") == 18
    assert Room.of(made(train={"gpu": False}), nodes).at_once(3) == 3
    with pytest.raises(UserError, match="false wants none"):
        Room.of(made(train={"gpu": False}, tune={"trial_gpus": 0.5}), nodes)


def test_workers_of_nested_trials_are_counted_by_node():
    nodes = [{"CPU": 3.0}] * 3
    room = Room.of(made(train={"workers": 2, "resources_per_worker": {"CPU": 2}}), nodes)
    assert room.slots == 3 and room.at_once("auto") == 1  # of the sum, 9, there would be two
    assert Room.of(made(train={"workers": 3, "resources_per_worker": {"CPU": 1}}), nodes).at_once("auto") == 3
