"""Training on features: the head of logistic regression, and settings of images refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import features, loader
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.inference import loading, predictor
from cxr_ray.runtime.context import LocalContext
from cxr_ray.training import on_features, setup
from cxr_ray.training.learner import Learner
from tests.fakes import trainings
from tests.fakes.embedded import Embedded, head, make
from tests.fakes.store import fake_store

ROWS = 400
STEPS = 160
INVERSE_PENALTY = 0.5
"""C of scikit-learn."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    return make(tmp_path_factory.mktemp("embedded"), rows=160)


def test_a_head_is_logistic_regression(tmp_path: Path) -> None:
    """With full batches until it converges. scikit-learn's loss is a sum over rows plus |w|² / 2C, ours a mean over rows and labels."""
    made = _noisy(tmp_path)
    cells = plans.build(made.store, head(made).data, seed=0).truth["train"].size
    config = head(
        made,
        optim={"lr": 0.2, "schedule": "cosine", "weight_decay": 1 / (INVERSE_PENALTY * cells), "decay_norms": False},
        train={"epochs": STEPS, "batch_size": 1000},
    )
    plan = plans.build(made.store, config.data, seed=0)
    source = features.training_source(made.store, config.data)
    learner = Learner(config, plan, source, LocalContext(quiet=True))
    for epoch in range(1, STEPS + 1):
        order = loader.epoch_order(plan.repeats, seed=0, epoch=epoch)
        samples = loader.EpochSamples(plan.rows["train"], plan.truth["train"], order)
        for batch in loader.train_batches(source, samples, batch_size=1000, rank=0, world=1):
            learner.step(batch, epoch=epoch, drops=0)
    logits = learner.predict(plan.rows["val"], stop=lambda: False)
    assert logits is not None
    train, val = (made.features.vectors(plan.rows[part]).astype(float) for part in ("train", "val"))
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    for truth, val_truth, ours in zip(plan.truth["train"].T, plan.truth["val"].T, logits.sigmoid().T, strict=True):
        regression = LogisticRegression(C=INVERSE_PENALTY, tol=1e-8, max_iter=10_000)
        theirs = regression.fit((train - mean) / deviation, truth).predict_proba((val - mean) / deviation)[:, 1]
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
        auroc = roc_auc_score(val_truth, theirs)
        assert 0.6 < auroc < 0.95 and abs(roc_auc_score(val_truth, ours) - auroc) <= 1e-3


def _noisy(folder: Path) -> Embedded:
    """Features that tell the labels only in part, of a store of `ROWS` images."""
    store = stores.open(trainings.write_store(folder / "shards", fake_store(ROWS, size=(12, 12))))
    truth = store.index[list(store.labels)].to_numpy(float)
    rng = np.random.default_rng(0)
    values = 5 + truth @ rng.normal(size=(truth.shape[1], 20)) + 3 * rng.normal(size=(ROWS, 20))
    out = folder / "features"
    out.mkdir()
    name = features.shard_name(0, 1)
    entry = features.write_shard(out / name, store.index["row"].to_numpy(), values.astype(np.float32))
    origin = features.Origin(store=store.fingerprint, model="x", weights="w", image_size=(12, 12), precision="fp32")
    features.write_manifest(out, origin, features=20, rows=ROWS, files={name: entry})
    return Embedded(store, runs.Run(folder / "runs" / "none"), features.open(out))


def test_the_run_predicts_images_by_the_network_and_its_head(made: Embedded) -> None:
    run = trainings.fit(head(made, "short"), made.store)
    plan = runs.plan_of(run, made.store)
    found = predictor.load(run)
    rows = plan.rows["val"]
    from_features = found.rows(made.store, rows)
    from_images = found(made.store.images(rows))
    np.testing.assert_allclose(from_features, from_images, atol=1e-5)
    np.testing.assert_allclose(run.predictions("val")[[f"prob/{k}" for k in found.labels]], from_images, atol=1e-5)
    model = loading.load_model(run)
    assert model.spec.name == "lenet" and model.spec.outputs == len(found.labels)
    with torch.inference_mode():
        np.testing.assert_allclose(model(torch.from_numpy(made.store.images(rows))).sigmoid(), from_images, atol=1e-5)


def test_a_head_names_the_network_of_its_features(made: Embedded) -> None:
    config = head(made, "named")
    plan = plans.build(made.store, config.data, seed=0, pos_weight_power=0)
    run = setup.open_run(config.for_task(plan.task), made.store, plan)
    assert run.info["embedder"] == {"model": "lenet", "weights": made.features.manifest.weights}
    assert run.architecture == "linear on features of lenet"


@pytest.mark.parametrize("damaged", ["features-00000-of-00001.arrow", features.EMBEDDER])
def test_bytes_that_changed_after_the_training_are_refused(tmp_path: Path, damaged: str) -> None:
    made = make(tmp_path, rows=60)
    run = trainings.fit(head(made), made.store)
    file = made.features.path / damaged
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1  # the size stays
    file.write_bytes(body)
    with pytest.raises(UserError, match=rf"bytes of {damaged} changed; delete .* and run `cxr-ray embed` again"):
        predictor.load(run).rows(made.store, runs.plan_of(run, made.store).rows["val"])


def resolved(**sections: Any) -> cfg.Config:
    return on_features.resolve(
        cfg.validate(cfg.merge({"data": {"features": "f"}, "model": {"name": "linear"}}, sections))
    )


def test_defaults_for_images_are_off() -> None:
    config = resolved()
    on_features.check(config)
    assert config.augment.probability == 0 and config.train.precision == "fp32"
    again = on_features.resolve(cfg.validate(config.model_dump(mode="json")))  # as from the run's config.yaml
    on_features.check(again)
    assert again == config
    plain = cfg.Config()
    assert on_features.resolve(plain) is plain
    on_features.check(plain)


@pytest.mark.parametrize(
    "sections",
    [
        {"augment": {"mixup": 0.2}},
        {"augment": {"probability": 0.5}},
        {"augment": {"flip": 0.5}},
        {"augment": {"degrees": 10}},
        {"model": {"name": "resnet18"}},
        {"model": {"weights": "imagenet"}},
        {"model": {"head": "append"}},
        {"data": {"image_size": [28, 28]}},
        {"data": {"normalize": "imagenet"}},
        {"data": {"normalize": [0.5, 0.2]}},
    ],
    ids=str,
)
def test_settings_of_images_are_refused(sections: dict[str, Any]) -> None:
    (section,) = sections
    (name,) = sections[section]
    with pytest.raises(UserError, match=rf"{section}\.{name}.* has no meaning with data.features"):
        on_features.check(resolved(**sections))


def test_a_trial_that_augments_is_refused() -> None:
    config = resolved()
    augmented = config.model_copy(update={"augment": config.augment.model_copy(update={"erase": 0.1})})
    with pytest.raises(UserError, match=r"augment\.erase"):
        on_features.check(augmented)
