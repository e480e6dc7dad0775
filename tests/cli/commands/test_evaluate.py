"""`cxr-ray evaluate`: its flags."""

import pytest

from cxr_ray.cli.commands.evaluate import read_mapping
from cxr_ray.errors import UserError


def test_a_mapping_needs_both_labels() -> None:
    assert read_mapping(["Edema=Pulmonary edema", "Mass=Nodule"]) == {"Edema": "Pulmonary edema", "Mass": "Nodule"}
    for wrong in ("Edema", "=Nodule", "Edema="):
        with pytest.raises(UserError, match="MODEL=DATA"):
            read_mapping([wrong])
