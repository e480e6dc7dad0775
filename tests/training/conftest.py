"""Fixtures of training tests."""

import pytest

from cxr_ray.runtime import polling


@pytest.fixture
def poll_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll, and write a checkpoint if one is due, after every step."""
    monkeypatch.setattr(polling, "POLL_S", 0.0)
