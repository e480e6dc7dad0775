"""cluster.yaml: Ray's own offline validation, and checks that it does not make."""

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


def test_ray_rejects_an_invalid_one(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    invalid = {**cluster, "head_node_typ": "head"}
    with pytest.raises(Exception, match="head_node_typ"):
        validate_config(prepare_config(invalid))


def test_all_start_and_setup_commands_are_ours(cluster: dict[str, Any]) -> None:
    """Ray would fill in missing ones: a dashboard on every interface and a nightly wheel."""
    from ray.autoscaler._private.util import prepare_config

    ours = commands(cluster)
    assert {line for line in commands(prepare_config(cluster)) if "pip" in line or "ray start" in line} <= set(ours)
    starts = [line for line in ours if "ray start --head" in line]
    assert len(starts) == 1
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert all("RAY_AUTH_MODE=token" in line for line in ours if "ray start" in line)
    text = FILE.read_text(encoding="utf-8")
    assert "0.0.0.0" not in text
    assert ".whl" not in text
    assert "constraints.txt" in text


def test_the_file_contains_no_secret(cluster: dict[str, Any]) -> None:
    assert "auth_token" in str(cluster["file_mounts"])  # by file, never by value
    assert "RAY_AUTH_TOKEN=" not in FILE.read_text(encoding="utf-8")


def test_the_head_runs_no_work_and_there_are_workers_with_and_without_gpu(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    assert kinds[cluster["head_node_type"]]["resources"]["CPU"] == 0
    workers = [kind["resources"] for name, kind in kinds.items() if name != cluster["head_node_type"]]
    assert any("GPU" in one for one in workers)
    assert any("GPU" not in one for one in workers)
