"""cluster.yaml: Ray's own offline validation, and what Ray's validation does not look at."""

from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def commands(cluster: dict[str, Any]) -> list[str]:
    return [line for key, value in cluster.items() if key.endswith("_commands") for line in value]


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_ray_refuses_a_spoilt_one(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    spoilt = {**cluster, "head_node_typ": "head"}
    with pytest.raises(Exception, match="head_node_typ"):
        validate_config(prepare_config(spoilt))


def test_all_start_and_setup_commands_are_ours(cluster: dict[str, Any]) -> None:
    """What is left out, Ray fills in: a dashboard on every interface and a nightly wheel."""
    from ray.autoscaler._private.util import prepare_config

    written = commands(cluster)
    assert {line for line in commands(prepare_config(cluster)) if "pip" in line or "ray start" in line} <= set(written)
    starts = [line for line in written if "ray start --head" in line]
    assert len(starts) == 1
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert all("RAY_AUTH_MODE=token" in line for line in written if "ray start" in line)
    text = FILE.read_text(encoding="utf-8")
    assert "0.0.0.0" not in text
    assert ".whl" not in text
    assert "constraints.txt" in text


def test_nothing_secret_is_written_down(cluster: dict[str, Any]) -> None:
    assert "auth_token" in str(cluster["file_mounts"])  # by file, never by value
    assert "RAY_AUTH_TOKEN=" not in FILE.read_text(encoding="utf-8")


def test_head_is_small_and_both_kinds_of_worker_are_there(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    assert kinds[cluster["head_node_type"]]["resources"]["CPU"] == 0
    workers = [kind["resources"] for name, kind in kinds.items() if name != cluster["head_node_type"]]
    assert any("GPU" in one for one in workers)
    assert any("GPU" not in one for one in workers)
