"""cluster.yaml and deploy/: Ray's own offline validation, and checks that it does not make. Neither was run in a cloud here."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "cluster.yaml"
RAYJOB = ROOT / "deploy" / "rayjob.yaml"


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


def test_no_node_is_left_to_the_defaults_of_the_launcher(cluster: dict[str, Any]) -> None:
    """Ray's default image has no Python 3.11, its default group opens SSH to every address, its default role may do anything."""
    for kind in cluster["available_node_types"].values():
        node = kind["node_config"]
        assert node["ImageId"].startswith("resolve:ssm:/aws/service/")
        assert node["SecurityGroupIds"] and node["SubnetIds"] and node["IamInstanceProfile"]["Arn"]
    text = FILE.read_text(encoding="utf-8")
    assert "NOT YET RUN ON AWS" in text and "REPLACE" in text


def test_a_spot_type_is_preferred_and_has_a_fallback_of_the_same_size(cluster: dict[str, Any]) -> None:
    gpus = {name: kind for name, kind in cluster["available_node_types"].items() if "GPU" in kind["resources"]}
    spot, demand = gpus["gpu_spot"], gpus["gpu_on_demand"]
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in demand["node_config"]
    assert spot["resources"] == demand["resources"]
    # What the autoscaler starts for a worker that both could run.
    from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for
    from ray.autoscaler._private.util import prepare_config

    types = {name: prepare_config(cluster)["available_node_types"][name] for name in gpus}
    worker: Any = {"CPU": 1.0, "GPU": 1.0}
    score: Any = _score  # Ray calls it with more than it declares
    for order in (list(types), list(reversed(types))):
        started = get_nodes_for(
            {name: types[name] for name in order},
            {},
            "head",
            4,
            [worker],
            score,
        )
        assert started[0] == {"gpu_spot": 1}


def _score(resources: Any, demands: Any, node_type: str, **options: Any) -> tuple[int, float] | None:
    """How well a node suits: all that matters here is that equal nodes are equally good."""
    fits = all(resources.get(name, 0.0) >= amount for name, amount in demands[0].items())
    return (1, 1.0) if fits else None


def test_the_same_ray_everywhere(cluster: dict[str, Any]) -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    assert f"ray[default]=={pins['ray']}" in FILE.read_text(encoding="utf-8")
    job = yaml.safe_load(RAYJOB.read_text(encoding="utf-8"))
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pins["ray"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"cxr-ray:{version}" in RAYJOB.read_text(encoding="utf-8")


def test_the_rayjob_has_known_fields_a_token_and_time_for_a_checkpoint() -> None:
    """Names of the fields as KubeRay 1.6's reference lists them."""
    job = yaml.safe_load(RAYJOB.read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= {
        "entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec", "submissionMode",
        "runtimeEnvYAML", "activeDeadlineSeconds", "metadata",
    }  # fmt: skip
    spec = job["spec"]["rayClusterSpec"]
    assert set(spec) <= {
        "rayVersion",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "authOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    }
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = spec["workerGroupSpecs"]
    assert set(group) <= {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
    for pod in (spec["headGroupSpec"]["template"]["spec"], group["template"]["spec"]):
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("file", [FILE, RAYJOB])
def test_its_commands_are_commands_of_ours(file: Path) -> None:
    """Every `cxr-ray` and `python -m cxr_ray` line is accepted by the command line, with paths of the cluster."""
    import shlex

    from cxr_ray.cli.command_list import COMMANDS
    from cxr_ray.cli.commands.submit import read_job

    text = file.read_text(encoding="utf-8")
    typed = re.findall(r"^#\s+cxr-ray submit -- (.*)$", text, re.M)
    typed += re.findall(r"python -m cxr_ray (.*\n(?: {4}--.*\n)*)", text)
    assert typed
    for line in typed:
        words = shlex.split(line)
        assert words[0] in COMMANDS
        assert read_job(tuple(words), ROOT).words[0] == words[0]


def test_the_image_has_what_the_package_needs() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert "-c constraints.txt" in text and "USER ray" in text
    copied = re.findall(r"^COPY (.+) \S+$", text, re.M)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
        assert f"!{name}" in (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
