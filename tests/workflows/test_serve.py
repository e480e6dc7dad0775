"""What the service tells of itself, and what it refuses before Ray starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.inference import predictor
from cxr_ray.storage.atomic import sha256
from cxr_ray.workflows import serve
from cxr_ray.workflows.decisions import decisions_of
from tests.fakes import trainings
from tests.fakes.store import fake_store


def test_metadata_of_a_run(tmp_path: Path) -> None:
    store = stores.open(trainings.write_store(tmp_path / "shards", fake_store()))
    run = trainings.fit(trainings.config(tmp_path), store)
    found = predictor.load(run)
    about = serve.metadata(found, decisions_of(found, 0.3), run.path, max_mib=8)
    assert json.loads(json.dumps(about)) == about
    assert about["labels"] == list(found.labels) and about["thresholds"] == dict.fromkeys(found.labels, 0.3)
    assert about["weights_sha256"] == [sha256(run.weights)] and about["limits"]["body_bytes"] == 8 * 2**20
    assert about["model"]["name"] == "run" and sha256(run.weights).startswith(about["model"]["version"])
    assert str(tmp_path) not in json.dumps(about)


@pytest.mark.parametrize(
    ("options", "message"), [({}, "no run"), ({"replicas": 0}, "--replicas"), ({"max_mib": 0}, "--max-mib")], ids=str
)
def test_refused_before_ray_starts(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        serve.serve(tmp_path / "none", serve.ServeOptions(**options))
