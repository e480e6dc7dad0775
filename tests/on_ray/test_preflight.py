"""What a node lacks is said with its name before a run has a folder. A second node on this machine gets its own view of the disk."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cxr_ray.errors import UserError
from cxr_ray.on_ray import preflight
from tests.conftest import S3
from tests.fakes.waiting import until

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, ray
from cxr_ray.errors import UserError
from cxr_ray.on_ray import preflight
ray.init(address=sys.argv[1], log_to_driver=False)
for store, output in zip(sys.argv[2::2], sys.argv[3::2]):
    try:
        print("passed", *preflight.check(preflight.Needs(store, output), [n for n in ray.nodes() if n["Alive"]]))
    except UserError as error:
        print("refused", error)
"""


@pytest.mark.ray
def test_a_node_that_sees_everything_passes_and_nothing_is_left(ray_local: None, store: Path, tmp_path: Path) -> None:
    import ray

    output = tmp_path / "made" / "runs"
    assert preflight.check(preflight.Needs(str(store), str(output)), ray.nodes()) == []
    assert not output.parent.exists()
    output.mkdir(parents=True)
    preflight.check(preflight.Needs(str(store), str(output)), ray.nodes())
    assert list(output.iterdir()) == []
    with pytest.raises(
        UserError, match=r"the store .*/nothing cannot be read on the node .*: it has no manifest\.json there; mount"
    ):
        preflight.check(preflight.Needs(str(tmp_path / "nothing"), str(output)), ray.nodes())
    with pytest.raises(
        UserError, match=r"the node .* cannot import the plugins not_there: put them into the working directory"
    ):
        preflight.check(preflight.Needs(str(store), str(output), plugins=["not_there", "math"]), ray.nodes())


@pytest.mark.ray
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_node_without_space_for_its_copy_of_a_remote_store_is_named(
    ray_local: None, store: Path, tmp_path: Path, s3: S3
) -> None:
    import ray

    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], check=True)
    try:
        url = s3.upload(store, "preflight/store")
        assert preflight.check(preflight.Needs(url, str(tmp_path), cache=str(tmp_path / "cache")), ray.nodes()) == []
        with pytest.raises(
            UserError, match=r"on the node .*: no space for a copy of s3://.* MiB free; free some, or name"
        ):
            preflight.check(preflight.Needs(url, str(tmp_path), cache=str(disk / "cache")), ray.nodes())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def blind(tmp_path: Path) -> Iterator[Callable[[list[Path]], str]]:
    """Starts a cluster of two nodes, of which the second sees an empty disk in place of some folders, or another folder in place of
    one; gives its address."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting needs root and unshare")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    started: list[subprocess.Popen[Any]] = []

    def start(hidden: list[Path], other: dict[Path, Path] | None = None) -> str:
        mounts = " && ".join(
            [f"mount -t tmpfs tmpfs {folder}" for folder in hidden]
            + [f"mount --bind {there} {folder}" for folder, there in (other or {}).items()]
        )
        ray_command = Path(sys.executable).parent / "ray"
        command = f"{mounts} && exec {ray_command} start --address={cluster.address} --num-cpus=1 --block"
        started.append(subprocess.Popen(["unshare", "-m", "bash", "-c", command], start_new_session=True))
        return str(cluster.address)

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=60)
    cluster.shutdown()


@pytest.mark.cluster
@pytest.mark.slow
def test_a_node_without_the_store_or_with_another_output_is_named(
    blind: Callable[[list[Path]], str], store: Path, tmp_path: Path
) -> None:
    shared, here, output = tmp_path / "shared", tmp_path / "here", tmp_path / "output"
    for folder in (shared, output):
        folder.mkdir()
    shutil.copytree(store, here)
    address = blind([here, output])

    def run(*places: Path) -> list[str]:
        command = [sys.executable, "-c", SCRIPT, address, *map(str, places)]
        out = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert out.returncode == 0, out.stderr
        return out.stdout.splitlines()

    until(lambda: len(_nodes(address)) == 2, seconds=60)
    passed, no_store, no_output = run(store, shared, here, shared, store, output)
    assert passed == "passed"
    assert no_store.startswith(f"refused the store {here} cannot be read on the node ")
    assert no_output.startswith(f"refused the output {output} is not shared with the node ")
    assert "does not see a file that was just written there" in no_output


@pytest.mark.cluster
@pytest.mark.long
def test_a_node_with_other_code_of_the_same_version_is_named(
    blind: Callable[..., str], store: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "cxr_ray", other, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "labels.py").open("a") as file:
        file.write("\n# another commit\n")
    address = blind([], {ROOT / "cxr_ray": other})
    until(lambda: len(_nodes(address)) == 2, seconds=60)
    command = [sys.executable, "-c", SCRIPT, address, str(store), str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert re.match(
        r"refused the node \S+ has cxr_ray (\S+)\+\w{8} \(here \1\+\w{8}\): install the same versions on all nodes",
        out.stdout,
    ), out


def _nodes(address: str) -> list[str]:
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False); print(*[n['NodeID'] for n in ray.nodes() if n['Alive']])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return out.stdout.split()
