"""Maps by actors of Ray Data equal those of this process."""

from pathlib import Path

import numpy as np
import pytest

import cxr_ray
from cxr_ray.errors import UserError
from cxr_ray.runs import ensemble
from tests.fakes.explained import quiet, trained


def maps(run: cxr_ray.Run, **options: object) -> cxr_ray.Explanation:
    return cxr_ray.explain(run, gpu=False, log=quiet, **options)  # type: ignore[arg-type]


def same(one: cxr_ray.Explanation, other: cxr_ray.Explanation) -> None:
    assert list(one.maps) == list(other.maps) and one.labels == other.labels
    assert np.array_equal(one.rows, other.rows) and np.array_equal(one.images, other.images)
    for name, values in one.maps.items():
        assert np.allclose(values, other.maps[name], rtol=1e-4, atol=1e-6)
    key = ["method", "row", "label"]
    first, second = (each.certificates.sort_values(key).reset_index(drop=True) for each in (one, other))
    assert first[key].equals(second[key]) and np.allclose(first["relevance"], second["relevance"], rtol=1e-4, atol=1e-6)
    assert one.identities == other.identities


def test_workers_give_the_maps_of_one_process(ray_local: None, tmp_path: Path) -> None:
    run = trained()
    how = {"methods": ("saliency", "lrp_epsilon"), "limit": 7, "batch_size": 3, "target": "all"}
    same(maps(run, **how), maps(run, **how, workers=2))
    both = ensemble.make(tmp_path / "both", [run, trained(seed=1)])
    same(maps(both, limit=3), maps(both, limit=3, workers=2, out=tmp_path / "out"))
    assert (tmp_path / "out" / "explain.html").is_file()
    with pytest.raises(UserError, match="known:"):
        maps(run, workers=2, target="3")


def test_what_workers_cannot_explain(tmp_path: Path) -> None:
    run = trained()
    with pytest.raises(UserError, match="pictures and models in memory need none"):
        cxr_ray.explain(run, np.zeros((1, 64, 64), np.uint8), workers=2, gpu=False)
    with pytest.raises(UserError, match="must be at least 1, got 0"):
        list(cxr_ray.explain(run, workers=0, address="local", gpu=False).maps)
