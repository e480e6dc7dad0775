"""The flag --thresholds."""

import pytest

from cxr_ray.cli.thresholds import read_thresholds
from cxr_ray.errors import UserError


def test_thresholds() -> None:
    assert read_thresholds(None) is None
    assert read_thresholds(["0.3"]) == 0.3
    assert read_thresholds(["Edema=0.2", "Pleural Effusion=.4"]) == {"Edema": 0.2, "Pleural Effusion": 0.4}
    for wrong in (["a"], ["=0.2"], ["0.2", "0.3"], ["-1"], ["Edema=nan"]):
        with pytest.raises(UserError):
            read_thresholds(wrong)
