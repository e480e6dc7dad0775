"""A Ray session: the error if no cluster answers."""

from typing import Any

import pytest
import ray

from cxr_ray.errors import UserError
from cxr_ray.on_ray import cluster


@pytest.mark.parametrize(("address", "fix"), [("there:6379", "leave --address out"), (None, "unset RAY_ADDRESS")])
def test_a_cluster_that_does_not_answer_is_named_with_the_fix(
    address: str | None, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --address the cluster is that of RAY_ADDRESS, as in every Ray job: leaving --address out does not help then."""

    def refuse(**options: Any) -> None:
        raise ConnectionError(f"no answer from {options['address']}")

    monkeypatch.setenv("RAY_ADDRESS", "there:6379")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match=f"no Ray cluster answers at there:6379.*{fix}"), cluster.session(address):
        pass
