"""Waiting until a cluster has room. Lack of room is no failure: another job holds it, or a node is still starting."""

import time
from collections.abc import Callable, Iterable

import ray
from ray._private.state import available_resources_per_node
from ray._raylet import PlacementGroupID
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from cxr_ray.errors import Stopped, UserError
from cxr_ray.on_ray import autoscaler
from cxr_ray.on_ray.resources import Resources, Room, check_capacity
from cxr_ray.runtime import machine

LINE_S = 30.0
"""Seconds between two lines about the wait."""
QUIET_S = 5.0
"""A wait that is shorter needs no line."""
WAIT_MINUTES = 10.0
"""How long to wait for room when somebody looks on."""


class WaitedInVain(UserError):
    """There was no room for as long as the user wanted to wait."""


def now() -> Room:
    """The room of the connected cluster."""
    nodes = {node["NodeID"]: dict(node["Resources"]) for node in ray.nodes() if node["Alive"]}
    free = available_resources_per_node()
    scaler = autoscaler.read()
    return Room(
        list(nodes.values()),
        [free[name] for name in nodes if name in free],
        scaler.types,
        scaler.more,
        scaler.starting,
        scaler.is_open,
    )


def uses_gpu(wanted: bool | str) -> bool:
    """Whether work that may use a GPU (`wanted` is false, true or auto) gets one: the cluster has one, or may start one."""
    return wanted is not False and now().total("GPU") >= 1


def wait_limit(minutes: float | None) -> float | None:
    """Minutes to wait for room when `--wait` is `minutes`: by default without an end in a Ray job, where nobody looks on and the job
    keeps its place; else `WAIT_MINUTES`."""
    if minutes is not None:
        return minutes
    return None if machine.in_job() else WAIT_MINUTES


def wait_for(
    bundle: Resources,
    count: int,
    *,
    minutes: float | None,
    log: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Return when the cluster has room for `count` bundles, each on one node. Says every `LINE_S` what it waits for.

    The request stands in Ray's queue meanwhile, so that an autoscaler starts nodes for it; that is said at once, since it takes minutes.
    Raises `UserError` after `minutes` (None: never), and `Stopped` once `should_stop()`."""
    room, started, said = now(), time.monotonic(), 0.0
    if room.needs_nodes(bundle, count):
        log(line(bundle, count, room))
        said = time.monotonic() - started
    group = placement_group([{name: amount for name, amount in bundle.items() if amount}] * count)
    try:
        while not group.wait(timeout_seconds=1):
            waited = time.monotonic() - started
            if should_stop():
                raise Stopped("stopped while it waited for room on the cluster; the same command continues")
            if minutes is not None and waited > minutes * 60:
                raise in_vain(bundle, count, minutes, now())
            if waited > (said + LINE_S if said else QUIET_S):
                log(line(bundle, count, now()))
                said = waited
    finally:
        remove_placement_group(group)
    if said:
        log(f"there is room now, after {time.monotonic() - started:.0f} s")


def ensure(bundle: Resources, count: int, *, wait: float | None, log: Callable[[str], None]) -> None:
    """For work that starts as many workers as fit: refuse what can never fit, and wait until `count` bundles have room, as long as
    `wait_limit` of `wait` minutes says. Raises `UserError`."""
    check_capacity(bundle, count, now())
    wait_for(bundle, count, minutes=wait_limit(wait), log=log)


def groups_of_job() -> set[str]:
    """The placement groups of this Ray job that hold or wait for room."""
    job = ray.get_runtime_context().get_job_id()  # the ids of its groups end with it
    return {
        name for name, group in placement_group_table().items() if name.endswith(job) and group["state"] != "REMOVED"
    }


def remove(groups: Iterable[str]) -> None:
    """Give back what placement groups hold, and end the workers in them."""
    for name in groups:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def line(bundle: Resources, count: int, room: Room) -> str:
    """What is waited for, what is free, and what is on its way: `waiting for 2 x {CPU: 1}; free 1; 1 node starting`."""
    starting = "; the autoscaler has to start nodes" if room.needs_nodes(bundle, count) else ""
    if room.starting:
        starting = f"; {room.starting} {'node' if room.starting == 1 else 'nodes'} starting"
    return f"waiting for {_request(bundle, count)}; free {room.free_for(bundle)}{starting}"


def in_vain(bundle: Resources, count: int, minutes: float, room: Room) -> WaitedInVain:
    """The error after a wait of `minutes`."""
    return WaitedInVain(
        f"no room for {_request(bundle, count)} within {minutes:g} minutes: {room.free_for(bundle)} of them would fit now on "
        f"{len(room.nodes)} {'node' if len(room.nodes) == 1 else 'nodes'}; run the same command again later or with a longer --wait MINUTES, start more nodes, or ask "
        "for fewer or smaller workers"
    )


def _request(bundle: Resources, count: int) -> str:
    each = ", ".join(f"{name}: {amount:g}" for name, amount in bundle.items() if amount)
    return f"{count} x {{{each}}}"
