"""maps.npz: what numpy reads is what was added, batch by batch, and it can be read without loading it."""

from pathlib import Path

import numpy as np
import pytest

from cxr_ray.errors import UserError
from cxr_ray.explanation.explainer import MapBatch
from cxr_ray.explanation.maps_file import MapsWriter, open_maps


def batch(rows: list[int], seed: int) -> MapBatch:
    rng = np.random.default_rng(seed)
    n = len(rows)
    maps = {name: rng.normal(size=(n, 5, 7)).astype(np.float32) for name in ("saliency", "lrp_epsilon/first run")}
    zeros = np.zeros(n, np.float32)
    return MapBatch(np.zeros((n, 5, 7), np.uint8), np.asarray(rows), ["Edema", "Mässe"][:n], zeros, zeros, maps, [], {})


def test_numpy_reads_what_was_added_without_pickles(tmp_path: Path) -> None:
    batches = [batch([5, 9], 0), batch([12], 1)]
    with MapsWriter(tmp_path, list(batches[0].maps)) as writer:
        for one in batches:
            writer.add(one)
        writer.write(tmp_path / "maps.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["maps.npz"]
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as found:
        assert set(found.files) == {"rows", "labels", "saliency", "lrp_epsilon/first run"}
        assert found["rows"].tolist() == [5, 9, 12] and found["labels"].tolist() == ["Edema", "Mässe", "Edema"]
        for name in batches[0].maps:
            expected = np.concatenate([one.maps[name] for one in batches])
            assert found[name].dtype == np.float32
            np.testing.assert_array_equal(found[name], expected)
            np.testing.assert_array_equal(open_maps(tmp_path / "maps.npz")[name], expected)
    assert isinstance(open_maps(tmp_path / "maps.npz")["saliency"], np.memmap)


def test_equal_maps_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with MapsWriter(tmp_path / name, ["saliency", "lrp_epsilon/first run"]) as writer:
            writer.add(batch([1, 2], 3))
            writer.write(tmp_path / name / "maps.npz")
    assert (tmp_path / "a" / "maps.npz").read_bytes() == (tmp_path / "b" / "maps.npz").read_bytes()


def test_no_image_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image"), MapsWriter(tmp_path, ["saliency"]) as writer:
        writer.write(tmp_path / "maps.npz")
    assert not list(tmp_path.iterdir())
