"""`cxr-ray init`: the config is valid, splits the store's rows, trains, and fits the machine."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from cxr_ray import cli, runs
from cxr_ray import config as configs
from cxr_ray.cli.commands import init
from cxr_ray.data import plan as plans
from cxr_ray.data import store as stores
from cxr_ray.data import store_writer
from cxr_ray.data.info import DatasetInfo
from tests.fakes.store import fake_store
from tests.fakes.study_store import write_store

CPU = init.Machine("cpu", "CPU", 16.0, "fp32")
GPU = init.Machine("cuda", "a GPU", 24.0, "bf16")


def test_the_config_trains_with_the_printed_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "my store", seed=0)
    assert cli.main(["init", "my store"]) == 0
    out = capsys.readouterr().out
    assert f"config: {tmp_path / 'my store.yaml'}" in out
    words = shlex.split(out.rstrip().splitlines()[-1].partition("then: ")[2])
    assert words == ["cxr-ray", "train", "-c", "my store.yaml"]

    config = configs.load("my store.yaml")
    store = stores.open("my store")
    expected = configs.validate({"data": {"shards": "my store", "image_size": (32, 32)}})
    plan = plans.build(store, expected.data, seed=0)
    assert config.data.labels == list(plan.labels)
    assert config.data.task == plan.task == "multilabel"
    assert config.data.image_size == (32, 32)
    assert config.train.monitor == "val/auroc/mean"
    found = plans.build(store, config.data, seed=0)
    assert all(np.array_equal(found.rows[part], plan.rows[part]) for part in plan.rows)

    small = ["--model", "lenet", "--epochs", "1", "--name", "x", "--report.trackers", "[]"]
    assert cli.main([*words[1:], *small]) == 0
    assert runs.load("runs/x").info["status"] == "finished"

    before = Path("my store.yaml").read_text()
    assert cli.main(["init", "my store"]) == 2  # never overwrites a file that somebody may have edited
    assert "already exists; give another file with --out FILE" in capsys.readouterr().err
    assert Path("my store.yaml").read_text() == before
    assert cli.main(["init", "my store", "--out", "configs/other.yaml"]) == 0
    assert yaml.safe_load(Path("configs/other.yaml").read_text()) == yaml.safe_load(before)


def test_comments_show_frequencies_and_what_was_reduced(tmp_path: Path) -> None:
    store = write_store(tmp_path / "shards", seed=0)
    text = init.write_config(store, "shards", Path("a.yaml"), CPU)
    label = store.info.default_labels[0]
    count = int((store.index[label] == 1).sum())
    assert any(line.strip().startswith(f"- {label} ") and f"{count} positive" in line for line in text.splitlines())
    assert "#   cxr-ray train -c a.yaml" in text
    assert "# Note: made up" in text
    assert "groups: pair" in text
    assert "on this machine: fp32" in text
    assert "# height, width: the store's\n" in text


@pytest.mark.parametrize(("machine", "reason"), [(CPU, "slow"), (GPU, "large")])
def test_a_comment_says_why_images_are_made_smaller(tmp_path: Path, machine: init.Machine, reason: str) -> None:
    fake = fake_store(40, size=(520, 520), seed=0)
    table = fake.index.drop(columns=["mean", "variance"])
    info = DatasetInfo(labels=fake.labels, task="multilabel", default_labels=fake.labels)
    store = store_writer.write(tmp_path / "shards", fake.pixels, table, info, source="fake", shard_rows=40)
    text = init.write_config(store, str(store.path), Path("a.yaml"), machine)
    assert f"# height, width; the store's 520 x 520 would be {reason} here" in text


def test_classes_get_the_accuracy_and_odd_names_survive(tmp_path: Path) -> None:
    names = ("No", "null", "a: b", "007")
    fake = fake_store(160, labels=names, size=(16, 24), seed=0)
    table = fake.index.drop(columns=["mean", "variance"])
    table[list(names)] = np.eye(4, dtype=np.float32)[np.arange(160) % 4]
    info = DatasetInfo(labels=names, task="multiclass", default_labels=names)
    store = store_writer.write(tmp_path / "shards", fake.pixels, table, info, source="fake", shard_rows=80)
    config = configs.validate(yaml.safe_load(init.write_config(store, str(store.path), Path("a.yaml"), GPU)))
    assert config.train.monitor == "val/accuracy"
    assert config.data.task == "multiclass"
    assert config.data.labels == list(names)
    assert config.data.image_size == (16, 24)


def test_image_size_fits_the_device() -> None:
    assert init.image_size((64, 64), "cpu") == (64, 64)
    assert init.image_size((320, 256), "cpu") == (224, 179)
    assert init.image_size((320, 256), "cuda") == (320, 256)
    assert init.image_size((1024, 512), "cuda") == (512, 256)


def test_batch_size_fits_memory_and_store() -> None:
    assert init.batch_size(100_000, (224, 224), GPU) == 128
    assert init.batch_size(100_000, (448, 448), GPU) == 32
    assert init.batch_size(100_000, (224, 224), GPU._replace(memory_gib=80.0)) == 256
    assert init.batch_size(100_000, (224, 224), CPU) == 32
    assert init.batch_size(100_000, (64, 64), CPU) == 64
    assert init.batch_size(200, (64, 64), CPU) == 16
    assert init.batch_size(3, (64, 64), CPU) == 4
    assert init.batch_size(100_000, (224, 224), CPU._replace(memory_gib=0.0)) == 16
    assert init.batch_size(100_000, (4096, 4096), CPU) == 1


def test_this_machine_has_a_precision() -> None:
    machine = init.this_machine()
    assert machine.precision in ("fp32", "bf16")
    assert machine.device in ("cpu", "cuda") and machine.about


def test_no_store_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "no/such/store"]) == 2
    assert "no/such/store" in capsys.readouterr().err
