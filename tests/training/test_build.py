"""The model of a run: normalised by the gray values of its train rows, each counted once."""

from pathlib import Path

import pytest

from cxr_ray.data import plan as plans
from cxr_ray.training import build
from tests.fakes.store import fake_store
from tests.fakes.trainings import config


def test_statistics_are_those_of_all_train_pixels(tmp_path: Path) -> None:
    store = fake_store(40, unknown=0.2)
    plan = plans.build(store, config(tmp_path, data={"oversample_min_count": 6}).data, seed=0)
    assert plan.repeats.max() > 1
    pixels = store.images(plan.rows["train"]).astype(float) / 255
    mean, deviation = build.gray_statistics(store, plan, "dataset")
    assert (mean, deviation) == pytest.approx((pixels.mean(), pixels.std()), abs=1e-9)


@pytest.mark.parametrize(
    ("normalize", "expected"), [("imagenet", (0.449, 0.226)), ("none", (0.0, 1.0)), ((0.3, 0.2), (0.3, 0.2))]
)
def test_fixed_statistics(tmp_path: Path, normalize: str | tuple[float, float], expected: tuple[float, float]) -> None:
    store = fake_store(20)
    plan = plans.build(store, config(tmp_path).data, seed=0)
    assert build.gray_statistics(store, plan, normalize) == expected


def test_blank_images_do_not_divide_by_zero(tmp_path: Path) -> None:
    store = fake_store(20)
    store.index["mean"], store.index["variance"] = 7.0, 0.0
    plan = plans.build(store, config(tmp_path).data, seed=0)
    mean, deviation = build.gray_statistics(store, plan, "dataset")
    assert mean == pytest.approx(7 / 255) and deviation > 0


@pytest.mark.parametrize("image_size", [None, (16, 20)])
def test_the_model_follows_the_plan_and_the_store(tmp_path: Path, image_size: tuple[int, int] | None) -> None:
    store = fake_store(20)
    settings = config(tmp_path, data={"image_size": image_size, "labels": ["Edema", "Mass"]})
    plan = plans.build(store, settings.data, seed=0)
    spec = build.build(settings.for_task(plan.task), plan, store).spec
    assert (spec.outputs, spec.image_size) == (2, image_size or (28, 28))
    assert (spec.mean, spec.deviation) == build.gray_statistics(store, plan, "dataset")
