"""Features of a store: those of the network, whole or not there, and resumed where they stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ray.data import features
from cxr_ray.errors import UserError
from cxr_ray.inference import embedder, embedding
from cxr_ray.models.create import create_model
from cxr_ray.models.features import logits_and_features
from cxr_ray.models.serialization import SavedModel
from tests.fakes import trainings
from tests.fakes.embedded import CPU, Embedded, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    return make(tmp_path_factory.mktemp("embedded"))


def test_features_are_those_of_the_network(made: Embedded) -> None:
    saved = embedder.saved_model(made.run)
    rows = made.store.index["row"].to_numpy()
    with torch.inference_mode():
        _, wanted = logits_and_features(saved.model, torch.from_numpy(made.store.images(rows)))
    np.testing.assert_allclose(made.features.vectors(rows), wanted.numpy(), atol=1e-5)
    manifest = made.features.manifest
    assert (manifest.store, manifest.model, manifest.rows) == (made.store.fingerprint, "lenet", len(made.store))
    assert features.open(made.features.path, verify="full").manifest == manifest
    assert not (made.features.path / features.UNFINISHED).exists()


def test_complete_ones_are_only_opened(made: Embedded) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in made.features.path.iterdir()}
    again = embedding.embed(embedder.saved_model(made.run), made.store, made.features.path, device=CPU)
    assert {file.name: file.stat().st_mtime_ns for file in again.path.iterdir()} == before


def test_a_killed_one_goes_on(made: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, out = embedder.saved_model(made.run), tmp_path / "f"
    with monkeypatch.context() as patch:
        patch.setattr(features, "write_manifest", trainings.killed)
        with pytest.raises(trainings.Killed):
            embedding.embed(saved, made.store, out, device=CPU)
    with pytest.raises(UserError, match="unfinished"):
        features.open(out)
    other = SavedModel(create_model("lenet", 3, image_size=28).eval(), saved.labels, saved.task, "fp32")
    with pytest.raises(UserError, match="unfinished features of another weights"):
        embedding.embed(other, made.store, out, device=CPU)
    monkeypatch.setattr(features, "write_shard", trainings.killed)  # there is none to write any more
    found = embedding.embed(saved, made.store, out, device=CPU)
    assert found.manifest == made.features.manifest


def test_a_damaged_note_is_one_line(made: Embedded, tmp_path: Path) -> None:
    for body in ("{", "[]", "{}"):
        (tmp_path / features.UNFINISHED).write_text(body)
        with pytest.raises(UserError, match="is damaged: choose another folder"):
            embedding.embed(embedder.saved_model(made.run), made.store, tmp_path, device=CPU)


def test_other_content_is_left_alone(made: Embedded, tmp_path: Path) -> None:
    saved = embedder.saved_model(made.run)
    (tmp_path / "film.png").touch()
    with pytest.raises(UserError, match="not empty"):
        embedding.embed(saved, made.store, tmp_path, device=CPU)
    other = SavedModel(create_model("lenet", 3, image_size=20).eval(), saved.labels, saved.task, "fp32")
    with pytest.raises(UserError, match="features of another weights and image_size"):
        embedding.embed(other, made.store, made.features.path, device=CPU)


def test_the_head_does_not_change_the_identity() -> None:
    torch.manual_seed(0)
    one, two = (create_model("lenet", 2, image_size=28) for _ in range(2))
    assert embedding.weights_sha256(one) != embedding.weights_sha256(two)
    two.load_state_dict(one.state_dict())
    for p in two.head_parameters():
        torch.nn.init.zeros_(p)
    assert embedding.weights_sha256(one) == embedding.weights_sha256(two)


def test_a_network_by_name_needs_fitting_weights(made: Embedded) -> None:
    saved = embedder.by_name("lenet", str(made.run.path), (28, 28))
    assert embedding.weights_sha256(saved.model) != made.features.manifest.weights  # other normalisation
    for name, message in (("lenet5", "did you mean .lenet"), ("linear", "no features")):
        with pytest.raises(UserError, match=message):
            embedder.by_name(name, str(made.run.path), (28, 28))
