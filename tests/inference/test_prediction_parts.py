"""Parts: whatever the order and the size of the batches, every input is in one part, once, and a part is whole."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.errors import UserError
from cxr_ray.inference import prediction_parts
from cxr_ray.inference.batch_prediction import PredictedBatch
from cxr_ray.inference.prediction_parts import PredictionParts, difference, folder_of

LABELS = ("a", "b")


def batch(positions: list[int]) -> PredictedBatch:
    """Probabilities that name their place; every fifth input is refused."""
    refused = tuple("bad" if at % 5 == 0 else None for at in positions)
    prob = np.array([[at / 1000, 1 - at / 1000] for at in positions], np.float32).reshape(-1, 2)
    prob[[reason is not None for reason in refused]] = np.nan
    return PredictedBatch(np.asarray(positions, np.int64), prob, refused, prob[:, 0])


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 40),
    part=st.integers(1, 9),
    size=st.integers(1, 12),
    seed=st.integers(0, 9),
    stop=st.integers(0, 40),
)
def test_every_input_is_written_once(
    tmp_path_factory: pytest.TempPathFactory, count: int, part: int, size: int, seed: int, stop: int
) -> None:
    out = tmp_path_factory.mktemp("parts") / "out.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction_parts, "PART_INPUTS", part)
        first = PredictionParts(out, {"x": 1}, LABELS, count=count)
        order = np.random.default_rng(seed).permutation(first.missing()).tolist()
        for at in range(0, min(stop, count), size):
            first.add(batch(order[at : at + size]))
        again = PredictionParts(out, {"x": 1}, LABELS, count=count)
    missing = again.missing().tolist()
    assert len(missing) % part == 0 or count - 1 in missing  # whole parts
    assert set(range(count)) - set(missing) <= set(order[: -(-min(stop, count) // size) * size])
    for at in range(0, len(missing), size):
        again.add(batch(missing[at : at + size]))
    assert not len(again.missing())
    found = [again.read(number) for number in range(len(again))]
    prob = np.concatenate([np.stack([each["prob/a"].to_numpy(), each["prob/b"].to_numpy()], axis=1) for each in found])
    np.testing.assert_array_equal(prob, batch(list(range(count))).probabilities)
    assert [reason for each in found for reason in each["refused"].to_pylist()] == list(
        batch(list(range(count))).refused
    )


def test_finish_is_called_once_for_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_parts, "PART_INPUTS", 4)
    called: list[list[int]] = []

    def finish(positions, prob, refused):
        called.append(positions.tolist())
        assert prob.shape == (len(positions), 2) and len(refused) == len(positions)
        return {"study": [f"s{at}" for at in positions]}

    parts = PredictionParts(tmp_path / "out.csv", {}, LABELS, count=6, finish=finish)
    parts.add(batch([5, 1, 0, 4]))
    assert called == [[4, 5]]
    parts.add(batch([3, 2]))
    assert called == [[4, 5], [0, 1, 2, 3]] and parts.read(1)["study"].to_pylist() == ["s4", "s5"]
    parts.remove()
    assert not folder_of(tmp_path / "out.csv").exists()


def test_other_settings_and_damaged_manifests_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    PredictionParts(out, {"weights": ["a"], "thresholds": {"a": 0.5}}, LABELS, count=6)
    with pytest.raises(UserError, match="unfinished prediction of another run, or of other weights"):
        PredictionParts(out, {"weights": ["b"], "thresholds": {"a": 0.5}}, LABELS, count=6)
    with pytest.raises(UserError, match="with other thresholds"):
        PredictionParts(out, {"weights": ["a"], "thresholds": {"a": 0.4}}, LABELS, count=6)
    manifest = folder_of(out) / prediction_parts.MANIFEST
    for body in ("{", "[]", json.dumps({"settings": None}), json.dumps({"settings": {"weights": ["a"]}})):
        manifest.write_text(body)
        with pytest.raises(UserError, match="that cannot be read"):
            PredictionParts(out, {"weights": ["a"]}, LABELS, count=6)


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "out.parquet")
    folder.mkdir()
    (folder / "lease.json").touch()
    (folder / ".manifest.json.tmp").touch()  # of a prediction that was killed at its start
    own = folder / "thesis.txt"
    own.touch()
    with pytest.raises(UserError, match="files that predict did not write"):
        PredictionParts(tmp_path / "out.parquet", {}, LABELS, count=6)
    own.rename(tmp_path / "thesis.txt")
    PredictionParts(tmp_path / "out.parquet", {}, LABELS, count=6)


def test_a_damaged_part_is_predicted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_parts, "PART_INPUTS", 2)
    parts = PredictionParts(tmp_path / "out.parquet", {}, LABELS, count=4)
    parts.add(batch([0, 1, 2, 3]))
    file = parts.folder / "part-00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    assert parts.missing().tolist() == [2, 3]


def test_differences() -> None:
    assert difference({"a": 1}, {"a": 1}) == ""
    assert difference({"by": "image"}, {"by": "study"}) == "with another by"
    assert difference({}, {"inputs": "x"}) == "of other inputs"
