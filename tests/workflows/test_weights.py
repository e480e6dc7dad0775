"""The weights that a model is of."""

import hashlib
from pathlib import Path

from cxr_ray import runs
from cxr_ray.data.store_format import digest_of
from cxr_ray.workflows import weights


def test_a_file_has_its_digest_and_an_ensemble_those_of_its_members(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
        digests.append(hashlib.sha256(name.encode()).hexdigest())
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "run.json").write_text('{"members": ["../a", "../b"]}')
    assert weights.digests_of(tmp_path / "a" / "model.safetensors") == digests[:1]
    assert weights.digests_of(runs.Run(tmp_path / "a")) == digests[:1]
    assert weights.digests_of(runs.Run(tmp_path / "both")) == digests
    assert weights.version_of(digests[:1]) == digests[0] and weights.version_of(digests) == digest_of(digests)
