"""Fitting the check to runs, and the scores that a predictor gives with it."""

from pathlib import Path

import numpy as np
import pytest

from cxr_ray import runs
from cxr_ray.errors import UserError
from cxr_ray.inference import predictor, unusual, unusual_fit
from cxr_ray.runs import ensemble
from tests.fakes.store import FakeStore, fake_store
from tests.fakes.trainings import config, fit, write_store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[runs.Run, FakeStore]:
    store = fake_store(160)
    anatomy = np.outer(
        np.linspace(0, 1, 28), np.sin(np.linspace(0, 3, 28))
    )  # all images have it, unlike bands and noise
    store.pixels = (0.4 * store.pixels + 140 * anatomy).astype(np.uint8)
    store.index["height"], store.index["width"] = 60, 50
    run = fit(config(tmp_path_factory.mktemp("runs"), train={"epochs": 1}, data={"split": {"test": 0.25}}), store)
    unusual_fit.fit_missing(run, store, gpu=False, log=lambda line: None)
    return run, store


def images_of(run: runs.Run, store: FakeStore, part: str) -> np.ndarray:
    return store.images(run.plan.loc[run.plan["part"] == part, "row"])


def test_new_rows_are_usual_and_inverted_and_turned_ones_are_not(trained: tuple[runs.Run, FakeStore]) -> None:
    run, store = trained
    images, model = images_of(run, store, "test"), predictor.load(run, gpu=False)
    assert (model.checked(images).score_N > 1).mean() <= 0.03
    for changed in (255 - images, np.rot90(images, axes=(1, 2))):
        assert (model.checked(changed).score_N > 1).mean() >= 0.9


def test_the_probabilities_are_those_without_the_check(trained: tuple[runs.Run, FakeStore]) -> None:
    run, store = trained
    images, model = images_of(run, store, "val"), predictor.load(run, gpu=False)
    assert np.array_equal(model.checked(images).prob_NL, model.probabilities(images))


def test_the_aspect_counts_where_it_is_known(trained: tuple[runs.Run, FakeStore]) -> None:
    run, store = trained
    images, model = images_of(run, store, "train")[:2], predictor.load(run, gpu=False)
    turned = model.checked(images, aspect_N=np.array([50 / 60, np.nan])).score_N
    assert turned[0] > 1 >= turned[1]


def test_the_log_says_what_it_was_fitted_to_and_it_is_fitted_once(
    trained: tuple[runs.Run, FakeStore], capsys: pytest.CaptureFixture[str]
) -> None:
    run, store = trained
    (run.path / unusual.FILE).unlink()
    for _ in range(2):
        unusual_fit.fit_missing(run, store, gpu=False, log=print)
    lines = capsys.readouterr().out.splitlines()
    counts = run.plan["part"].value_counts()
    assert len(lines) == 1
    assert lines[0].startswith(f"check for unusual images: fitted to {counts['train']} train and {counts['val']} val")


def test_the_check_of_other_weights_does_not_count(trained: tuple[runs.Run, FakeStore], tmp_path: Path) -> None:
    run, store = trained
    other = fit(config(tmp_path, seed=1, train={"epochs": 1}), store)
    (other.path / unusual.FILE).write_bytes((run.path / unusual.FILE).read_bytes())
    images = images_of(run, store, "val")
    assert np.isnan(predictor.load(other, gpu=False).checked(images).score_N).all()
    unusual_fit.fit_missing(other, store, gpu=False, log=print)
    assert np.isfinite(predictor.load(other, gpu=False).checked(images).score_N).all()


def test_a_run_with_few_rows_has_no_check_and_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = fake_store(20)
    run = fit(config(tmp_path, train={"epochs": 1}), store)
    unusual_fit.fit_missing(run, store, gpu=False, log=print)
    assert "warning: no check for unusual images of run: val has" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"val has . rows, and it needs 10"):
        unusual_fit.fit(run, store)


def test_an_ensemble_gives_the_mean_score_of_its_members(tmp_path: Path) -> None:
    fake = fake_store(120)
    store = write_store(tmp_path / "store", fake)
    members = []
    for seed in (0, 1):
        member = fit(config(tmp_path, name=f"m{seed}", seed=seed, train={"epochs": 1}), fake)
        member.update(store={**member.info["store"], "path": str(store)})
        members.append(member)
    both = ensemble.make(tmp_path / "both", members)
    images = fake.pixels[:9]
    assert np.isnan(predictor.load(both, gpu=False).checked(images).score_N).all()
    unusual_fit.fit_missing(members[0], fake, gpu=False, log=print)
    one = predictor.load(members[0], gpu=False).checked(images).score_N
    assert np.allclose(predictor.load(both, gpu=False).checked(images).score_N, one)
    unusual_fit.fit_missing(both, fake, gpu=False, log=print)
    scores = [predictor.load(member, gpu=False).checked(images).score_N for member in members]
    found = predictor.load(both, gpu=False).checked(images)
    assert np.allclose(found.score_N, np.mean(scores, axis=0))
    assert np.allclose(found.prob_NL, predictor.load(both, gpu=False).probabilities(images))
