"""`train` on Ray Train and in this process: the same rows, the same run folder, one clear line where the user erred."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from cxr_ray import config as cfg
from cxr_ray import evaluate as judging
from cxr_ray import phantom, runs, shards, sources
from cxr_ray.errors import UserError
from cxr_ray.on_ray import train as on_ray
from cxr_ray.on_ray.ingest import ingest


@pytest.fixture(scope="module")
def store(ray_local, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    root = phantom.write(folder / "raw", patients=60, size=64, seed=1)
    records = sources.load("phantom", root)
    return ingest(records, root, folder / "shards", source="phantom", size=(32, 32)).path


def config(store: Path, output: Path, **sections) -> cfg.Config:
    base = {
        "output": str(output),
        "data": {"shards": str(store)},
        "model": {"name": "lenet"},
        "optim": {"lr": 1e-3},
        "train": {"epochs": 2, "batch_size": 16, "precision": "fp32", "log_rows": True},
        "report": {"bootstrap": 100},
    }
    return cfg.validate(cfg.merge(base, sections))


def rows_in_order(run: runs.Run) -> list[str]:
    logs = [
        pd.read_csv(p, names=["epoch", "step", "rank", "rows"], keep_default_na=False)
        for p in (run.path / "rows").iterdir()
    ]
    table = pd.concat(logs).sort_values(["epoch", "step", "rank"], kind="stable")
    return " ".join(table["rows"].astype(str)).split()


@pytest.fixture(scope="module")
def both(store, ray_local, tmp_path_factory) -> tuple[runs.Run, runs.Run, list[str]]:
    """The same config with one worker in this process and with two on Ray Train, and what the latter said."""
    output = tmp_path_factory.mktemp("runs")
    said: list[str] = []
    alone = on_ray.train(config(store, output, name="alone"), say=lambda line: None)
    shared = on_ray.train(config(store, output, name="shared", train={"workers": 2}), say=said.append)
    return alone, shared, said


@pytest.mark.ray
def test_one_and_two_workers_see_the_same_rows_in_the_same_order(both):
    alone, shared, _ = both
    assert rows_in_order(alone) == rows_in_order(shared)
    assert sorted(p.name for p in (shared.path / "rows").iterdir()) == ["rank-0.csv", "rank-1.csv"]


@pytest.mark.ray
def test_one_and_two_workers_have_the_same_losses(both):
    alone, shared, _ = both
    a, b = (r.metrics.query("metric == 'loss'").set_index(["epoch", "part", "label"])["value"] for r in (alone, shared))
    assert len(a) == len(b) and ((a - b).abs() < 1e-5).all()


@pytest.mark.ray
def test_the_driver_reads_out_progress_and_leaves_a_finished_run(both):
    _, shared, said = both
    assert any(line.startswith(f"run: {shared.path}") for line in said)
    assert [line.split()[1] for line in said if line.startswith("epoch ")] == ["0/2", "1/2", "2/2"]
    assert shared.info["status"] == "finished" and shared.info["workers"] == 2
    assert not (shared.path / "ray").exists()  # Ray's own bookkeeping does not stay in the run


@pytest.mark.ray
def test_evaluate_counts_looks_at_test_and_thresholds_need_no_model(both):
    alone, _, _ = both
    first = judging.evaluate(alone.path, say=lambda line: None)
    assert first.part == "test" and first.report.is_file() and alone.info["test_looks"] == 1
    (alone.path / "model.safetensors").rename(alone.path / "moved")
    (alone.path / "model.safetensors").touch()  # not a model: it must not be read
    again = judging.evaluate(alone.path, thresholds=0.1, say=lambda line: None)
    (alone.path / "moved").replace(alone.path / "model.safetensors")
    assert alone.info["test_looks"] == 2
    recall = [{v["label"]: v["value"] for v in e.found["values"] if v["metric"] == "recall"} for e in (first, again)]
    assert all(recall[1][k] >= recall[0][k] for k in recall[0]) and recall[1] != recall[0]
    assert {"thumbnail", "border"} == set(first.found["rivals"])
    assert judging.evaluate(alone.path, split="val", say=lambda line: None).part == "val"
    assert alone.info["test_looks"] == 2


@pytest.mark.ray
def test_a_run_s_own_config_repeats_it(both, store):
    alone, _, _ = both
    file = alone.path / "config.yaml"
    again = on_ray.train(cfg.load(str(file), {"name": "again"}), say=lambda line: None)
    assert (alone.path / "metrics.csv").read_bytes() == (again.path / "metrics.csv").read_bytes()
    assert yaml.safe_load(file.read_text())["data"]["shards"]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"data": {"shards": None}}, "data.shards is not set"),
        ({"model": {"name": "resnet19"}}, "unknown model 'resnet19'; did you mean 'resnet18'"),
        ({"data": {"labels": ["Cardiomegally"]}}, "unknown label 'Cardiomegally'; did you mean 'Cardiomegaly'"),
        ({"train": {"monitor": "val/aurc/mean"}}, "unknown metric 'aurc'.*did you mean 'auroc'"),
        ({"loss": {"name": "cross_entropy"}}, "cross_entropy"),
        ({"data": {"image_size": [64, 64]}}, "the images have 32 x 32"),
        ({"report": {"thresholds": {"Edma": 0.2}}}, "unknown label 'Edma'"),
        ({"model": {"weights": "nowhere.pth"}}, "nowhere.pth"),
        ({"plugins": ["no_such_module"]}, "cannot import 'no_such_module'"),
        ({"train": {"workers": 64}}, "64 workers want 64 CPU, and the cluster has 2"),
    ],
)
@pytest.mark.ray
def test_a_mistake_is_one_line_before_any_worker_starts(store, tmp_path, knobs, said):
    with pytest.raises(UserError, match=said) as caught:
        on_ray.train(config(store, tmp_path, **knobs), say=lambda line: None)
    assert "\n" not in str(caught.value)


@pytest.mark.ray
def test_a_store_that_changed_is_not_judged(both, store):
    alone, _, _ = both
    alone.update(store={**alone.info["store"], "fingerprint": "another"})
    with pytest.raises(UserError, match="its fingerprint differs"):
        judging.evaluate(alone.path, say=lambda line: None)
    alone.update(store={**alone.info["store"], "fingerprint": shards.open(store).fingerprint})


@pytest.mark.ray
def test_an_interrupt_says_how_to_go_on_and_the_same_name_does(store, tmp_path, monkeypatch):
    from cxr_ray import engine

    def interrupted(*_):
        raise KeyboardInterrupt

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(engine, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            on_ray.train(config(store, tmp_path, name="cut"), say=said.append)
    assert said[-1] == "interrupted: the same command with --name cut goes on after the last whole epoch"
    assert on_ray.train(config(store, tmp_path, name="cut"), say=said.append).info["status"] == "finished"
