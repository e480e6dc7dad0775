"""The config of a function of the Python API."""

import pytest

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.workflows.settings import resolve


def test_a_config_or_a_mapping() -> None:
    assert resolve({"optim.lr": 1e-3}, (), function="tune").optim.lr == 1e-3
    own = cfg.validate({"plugins": ["a"]})
    assert resolve(own, (), function="tune") is own
    assert resolve(own, ["a", "b"], function="tune").plugins == ["a", "b"]
    with pytest.raises(UserError, match="tune takes a config or a mapping of settings, not str; load_config"):
        resolve("preset:demo", (), function="tune")  # type: ignore[arg-type]
