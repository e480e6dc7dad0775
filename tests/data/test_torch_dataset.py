"""`Store.dataset`: samples agree with the plan, and DataLoaders of several processes read them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from cxr_ray import config as cfg
from cxr_ray.data import plan as plans
from cxr_ray.data import store_writer
from cxr_ray.data.store import Store
from cxr_ray.errors import UserError
from tests.fakes.store import fake_store


def store_of(folder: Path, **how: object) -> Store:
    fake = fake_store(40, **how)  # type: ignore[arg-type]
    return store_writer.write(folder, fake.pixels, fake.index.drop(columns=["mean", "variance"]), fake.info)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_of(tmp_path_factory.mktemp("store") / "s", unknown=0.2, uncertain=0.2)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_the_samples_of_a_part_are_those_of_the_default_plan(store: Store, part: str) -> None:
    plan = plans.build(store, cfg.Data(), seed=0)
    data = store.dataset(part)  # type: ignore[arg-type]
    assert len(data) == len(plan.rows[part]) and data.labels == plan.labels and data.task == "multilabel"
    for position in range(len(data)):
        image, target, row = data[position]
        assert row == plan.rows[part][position]
        assert image.dtype == torch.uint8 and np.array_equal(image.numpy(), store.images([row]))
        assert target.dtype == torch.float32
        np.testing.assert_equal(target.numpy(), plan.truth[part][position])


def test_without_a_part_the_rows_of_all_parts_are_used(store: Store) -> None:
    assert store.dataset().rows.tolist() == store.index["row"].tolist()


def test_a_plan_or_a_config_defines_rows_labels_and_oversampling(store: Store) -> None:
    config = cfg.load_config(data={"labels": ["Mass"], "oversample_min_count": 30})
    plan = plans.build(store, config.data, seed=config.seed)
    by_plan, by_config = store.dataset("train", plan), store.dataset("train", config)
    assert by_plan.rows.tolist() == by_config.rows.tolist() == np.repeat(plan.rows["train"], plan.repeats).tolist()
    assert len(by_plan) > len(plan.rows["train"]) and by_plan.targets.shape == (len(by_plan), 1)


def test_classes_are_integers(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", task="multiclass")
    data = store.dataset("train")
    _, target, row = data[3]
    assert target.dtype == torch.int64 and target.ndim == 0
    assert store.index.set_index("row").loc[row, list(store.labels)].to_numpy().argmax() == target


def test_workers_of_a_loader_read_it_and_transforms_apply(store: Store) -> None:
    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])])
    data = store.dataset("train", transform=transform)
    batches = list(DataLoader(data, batch_size=16, num_workers=2))
    rows = torch.cat([row for _, _, row in batches]).tolist()
    images = torch.cat([image for image, _, _ in batches])
    assert rows == data.rows.tolist()
    assert torch.allclose(images[:, 0], torch.from_numpy(store.images(rows)) / 127.5 - 1, atol=1e-6)


def test_an_unknown_part_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="unknown part 'trian'; did you mean 'train'"):
        store.dataset("trian")  # type: ignore[arg-type]
