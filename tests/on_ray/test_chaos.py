"""Three of the kills of chaos.py, on one cluster. All of them: `make chaos`."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.on_ray.chaos import Chaos, Kill, chaos


@pytest.fixture(scope="module")
def cluster() -> Iterator[Chaos]:
    with chaos(ray_waits_s=16) as made:
        yield made


def test_a_seed_says_what_is_killed_and_when() -> None:
    kills = [Kill.of(seed) for seed in range(1, 41)]
    assert kills == [Kill.of(seed) for seed in range(1, 41)]
    assert {kill.kind for kill in kills} == {"worker", "driver", "controller", "raylet", "gcs", "head"}
    assert len({kill.at for kill in kills}) == 40 and all(0 <= kill.at < 1 for kill in kills)


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [14, 38, 17])  # a worker; a node; the head's service
def test_a_run_ends_equal_after_a_random_kill(cluster: Chaos, seed: int) -> None:
    report = cluster.run(Kill.of(seed))
    first = report["ends"][0]
    assert report["result"] == "equal" and not report["victim"].startswith("none")
    assert not [noise for end in report["ends"] for noise in end["noise"]]
    if report["killed"] == "gcs":
        assert first["exit"] == 2 and first["status"] == "failed" and first["events"][-1] == "failed"
        assert first["last_line"].startswith("cxr-ray: error: the head of the cluster at ")
    else:  # the command itself continues
        assert first["exit"] == 0 and len(report["ends"]) == 1


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_replaced_head_ends_the_command_with_a_line(cluster: Chaos) -> None:
    def replace(process: subprocess.Popen[bytes]) -> str:
        cluster.nodes.kill_head(gcs_only=False)
        cluster.nodes.restart()
        return "all of the head, replaced at once"

    report = cluster.disturb("replaced", 0.5, replace)
    first = report["ends"][0]
    assert report["result"] == "equal" and first["exit"] == 2 and first["status"] == "failed"
    assert "was replaced by that of another cluster, and its workers are lost: " in first["last_line"]
    assert not [noise for end in report["ends"] for noise in end["noise"]]
