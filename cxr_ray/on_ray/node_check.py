"""The check of a store's bytes on another node, which may read another disk or a copy of its own."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cxr_ray.data import store as stores
from cxr_ray.data import store_check
from cxr_ray.errors import UserError


class NodeCheck:
    """Hashes the store `origin` on the node with this id, as `store_check.ByteCheck` does here."""

    def __init__(self, node: str, origin: str, cache: str) -> None:
        self._origin = origin
        strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0)(_problem).options(scheduling_strategy=strategy)
        self._answer = task.remote(origin, cache)

    @property
    def is_done(self) -> bool:
        """Whether `wait` returns at once."""
        done, _ = ray.wait([self._answer], timeout=0)
        return bool(done)

    def wait(self) -> None:
        """Wait for the verdict. Raises `UserError` for damage, and if the node is lost before."""
        try:
            problem = ray.get(self._answer)
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[-200:]
            raise UserError(
                f"the bytes of {self._origin} could not be checked on a node that read them ({reason}); the same command goes on"
            ) from None
        if problem:
            raise UserError(problem)

    def cancel(self) -> None:
        """End the task without a verdict."""
        ray.cancel(self._answer, force=True)


def _problem(origin: str, cache: str) -> str:
    """What is wrong with the store on this node; empty if nothing. Runs as a Ray task."""
    try:
        store_check.ByteCheck(stores.open(origin, verify="none", cache=cache)).wait()
    except UserError as error:
        return str(error)
    return ""
