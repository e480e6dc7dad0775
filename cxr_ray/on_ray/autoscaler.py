"""What the autoscaler of the connected cluster may start and is starting now. Ray has no interface for the first: its node types are in
the file that its monitor on the head was started with."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from cxr_ray.on_ray.resources import NodeType

HEAD = "node:__internal_head__"
"""The resource that only the head has."""
ANSWER_S = 30.0
"""Longest wait for the head to read its file; without an answer the node types count as unknown."""


@dataclass(frozen=True)
class Autoscaler:
    """The fields are those of `resources.Room`."""

    types: tuple[NodeType, ...] = ()
    more: int = 0
    starting: int = 0
    is_open: bool = False


def read() -> Autoscaler:
    """The autoscaler of the connected cluster; an empty one if it has none."""
    config = _config(ray.get_runtime_context().gcs_address)
    active, starting = _nodes_of_types()
    if config is None:
        return Autoscaler(starting=starting, is_open=_is_elsewhere())
    return of_config(config, active=active, starting=starting)


def of_config(config: Mapping[str, Any], *, active: Mapping[str, int], starting: int = 0) -> Autoscaler:
    """What the autoscaler of a cluster file may start, when `active` nodes of its types live."""
    head, limit = config.get("head_node_type"), int(config.get("max_workers", 2))  # 2: Ray's own default
    kinds = {name: kind for name, kind in config["available_node_types"].items() if name != head}
    types = tuple(
        NodeType(
            {str(k): float(v) for k, v in (kind.get("resources") or {}).items()},
            max(0, int(kind.get("max_workers", limit)) - active.get(name, 0)),
        )
        for name, kind in kinds.items()
    )
    return Autoscaler(types, max(0, limit - sum(active.get(name, 0) for name in kinds)), starting)


@cache
def _config(gcs_address: str) -> Mapping[str, Any] | None:
    """The cluster file of the monitor on the head of the connected Ray. None if there is no such file."""
    head = next((node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]), None)
    port = gcs_address.rpartition(":")[2]
    if head is None or head["NodeID"] == ray.get_runtime_context().get_node_id():
        return read_config(port)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    remote = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(read_config)  # type: ignore[call-overload]
    with suppress(ray.exceptions.RayError):
        answer: Mapping[str, Any] | None = ray.get(remote.remote(port), timeout=ANSWER_S)
        return answer
    return None


def read_config(port: str) -> Mapping[str, Any] | None:
    """On the head: the cluster file of the autoscaler of the Ray at this port. None if there is none."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
            words = file.read_bytes().decode().split("\0")
            if not any(re.search(r"autoscaler/\S*monitor\.py$", word) for word in words):
                continue
            flags = dict(word.partition("=")[::2] for word in words if word.startswith("--"))
            if flags.get("--gcs-address", "").rpartition(":")[2] == port and "--autoscaling-config" in flags:
                text = Path(flags["--autoscaling-config"]).expanduser().read_text(encoding="utf-8")
                config = yaml.safe_load(text)
                return config if isinstance(config, dict) and config.get("available_node_types") else None
    return None


def _status() -> Mapping[str, Any]:
    """What the autoscaler last wrote of itself: its first version, as JSON."""
    with suppress(ValueError, TypeError, KeyError):  # not written yet
        return dict(json.loads(_gcs().internal_kv_get(b"__autoscaling_status"))["autoscaler_report"])
    return {}


def _nodes_of_types() -> tuple[Mapping[str, int], int]:
    """Live nodes by type, and the number of nodes that are starting."""
    if _is_second_version():
        from ray.autoscaler.v2.sdk import get_cluster_status

        found = get_cluster_status(ray.get_runtime_context().gcs_address)
        active: dict[str, int] = {}
        for node in [*found.active_nodes, *found.idle_nodes]:
            active[node.ray_node_type_name] = active.get(node.ray_node_type_name, 0) + 1
        return active, len(found.pending_nodes) + sum(launch.count for launch in found.pending_launches)
    report = _status()
    starting = len(report.get("pending_nodes") or ()) + sum((report.get("pending_launches") or {}).values())
    return report.get("active_nodes") or {}, starting


def _gcs() -> GcsClient:
    return GcsClient(address=ray.get_runtime_context().gcs_address)


def _is_second_version() -> bool:
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    return bool(is_autoscaler_v2(fetch_from_server=True, gcs_client=_gcs()))


def _is_elsewhere() -> bool:
    """Whether an autoscaler without a cluster file on the head manages the nodes, as KubeRay's in a container of its own does. That of a
    Ray without an autoscaler reports nodes too, each of a type of its own."""
    active, _ = _nodes_of_types()
    return any(name and not re.fullmatch("node_[0-9a-f]{20,}", name) for name in active)
