"""A Ray session: what is said where no cluster answers."""

from typing import Any

import pytest
import ray

from cxr_ray.errors import UserError
from cxr_ray.on_ray import cluster


@pytest.mark.parametrize(("address", "fix"), [("there:6379", "leave --address out"), (None, "unset RAY_ADDRESS")])
def test_a_cluster_that_does_not_answer_is_named_with_the_mend(
    address: str | None, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --address the cluster is the one of RAY_ADDRESS, as in every Ray job: leaving --address out mends nothing then."""

    def refuse(**how: Any) -> None:
        raise ConnectionError(f"nobody at {how['address']}")

    monkeypatch.setenv("RAY_ADDRESS", "there:6379")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match=f"no Ray cluster answers at there:6379.*{fix}"), cluster.session(address):
        pass
