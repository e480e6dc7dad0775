"""`cxr-ray evaluate`: its flags."""

import pytest

from cxr_ray.cli.commands import evaluate
from cxr_ray.errors import UserError


def test_thresholds() -> None:
    assert evaluate.read_thresholds(None) is None
    assert evaluate.read_thresholds(["0.3"]) == 0.3
    assert evaluate.read_thresholds(["Edema=0.2", "Pleural Effusion=.4"]) == {"Edema": 0.2, "Pleural Effusion": 0.4}
    for wrong in (["a"], ["=0.2"], ["0.2", "0.3"], ["-1"], ["Edema=nan"]):
        with pytest.raises(UserError):
            evaluate.read_thresholds(wrong)
