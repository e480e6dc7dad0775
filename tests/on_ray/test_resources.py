"""How many workers and trials fit on a cluster: counted node by node, because a worker must fit on one."""

import pytest

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.on_ray.resources import TrialResources, check_capacity


def config(**sections) -> cfg.Config:
    return cfg.validate({"data": {"shards": "x"}, **sections})


def test_a_worker_that_fits_on_no_node_is_an_error_even_if_the_sum_is_enough():
    nodes = [{"CPU": 4.0}, {"CPU": 4.0}]
    with pytest.raises(
        UserError,
        match=r"none of the cluster's 2 nodes has 6 CPUs: each worker must fit on one node; lower .*, or start larger nodes",
    ):
        check_capacity({"CPU": 6.0}, 1, nodes)
    with pytest.raises(
        UserError, match=r"2 nodes have room for 2 of 3 workers with 2\.5 CPUs: each worker must fit on one"
    ):
        check_capacity({"CPU": 2.5}, 3, nodes)
    assert check_capacity({"CPU": 1.5}, 1, nodes) == 4  # the sum, 8, would allow five
    with pytest.raises(UserError, match="3 workers need 9 CPUs, but the cluster has 8"):
        check_capacity({"CPU": 3.0}, 3, nodes)
    with pytest.raises(UserError, match="did you mean 'highmem'"):
        check_capacity({"CPU": 1.0, "highmen": 1.0}, 1, [{"CPU": 4.0, "highmem": 2.0, "node:10.0.0.1": 1.0}])


def test_trials_share_gpus_as_ray_assigns_them():
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 2.0}]
    assert TrialResources.of(config(tune={"trial_gpus": 0.25}), nodes).max_concurrent("auto") == 8
    # A fraction is taken from a single GPU; 2 / 0.6 would give 3.
    assert TrialResources.of(config(tune={"trial_gpus": 0.6}), nodes).max_concurrent("auto") == 2
    resources = TrialResources.of(config(train={"workers": 2}), nodes)
    assert resources.max_concurrent("auto") == 1 and str(resources) == "2 workers with 1 CPU and 1 GPU each"
    assert TrialResources.of(config(train={"gpu": False}), nodes).max_concurrent("auto") == 18
    assert TrialResources.of(config(train={"gpu": False}), nodes).max_concurrent(3) == 3
    with pytest.raises(UserError, match=r"asks for part of a GPU, but train\.gpu is false"):
        TrialResources.of(config(train={"gpu": False}, tune={"trial_gpus": 0.5}), nodes)


def test_workers_of_trials_are_counted_node_by_node():
    nodes = [{"CPU": 3.0}] * 3
    resources = TrialResources.of(config(train={"workers": 2, "resources_per_worker": {"CPU": 2}}), nodes)
    assert resources.cluster_workers == 3 and resources.max_concurrent("auto") == 1  # the sum, 9, would allow two
    assert (
        TrialResources.of(config(train={"workers": 3, "resources_per_worker": {"CPU": 1}}), nodes).max_concurrent(
            "auto"
        )
        == 3
    )
