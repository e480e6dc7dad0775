"""The public API as a user guesses it: every name is a function for good, and every first guess works or is answered in one line."""

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import cxr_ray
from cxr_ray.data import store_writer
from cxr_ray.datasets.phantom import generate
from tests.fakes.store import fake_store

ROOT = Path(__file__).resolve().parents[2]
INIT = ROOT / "cxr_ray" / "__init__.py"


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> cxr_ray.Store:
    fake = fake_store(40)
    table = fake.index.drop(columns=["mean", "variance"])
    return store_writer.write(tmp_path_factory.mktemp("api") / "shards", fake.pixels, table, fake.info)


@pytest.fixture(scope="module")
def run(store: cxr_ray.Store) -> cxr_ray.Run:
    settings = {"data.shards": store, "model.name": "lenet", "train.epochs": 1, "report.trackers": []}
    return cxr_ray.train({**settings, "output": store.path.parent / "runs", "name": "a"}, log=quiet)


# ---- the names


def test_every_name_is_the_same_object_after_every_subpackage_was_imported() -> None:
    """In a fresh interpreter: a subpackage of the same name would replace the function when it is imported."""
    packages = [
        f"cxr_ray.{module.name}" for module in pkgutil.iter_modules(cxr_ray.__path__) if module.name != "__main__"
    ]
    code = f"""
import importlib, types, cxr_ray
first = {{name: getattr(cxr_ray, name) for name in cxr_ray.__all__}}
for package in {packages!r}:
    module = importlib.import_module(package)
    assert isinstance(getattr(cxr_ray, package.split(".")[1]), types.ModuleType), package
for name in cxr_ray.__all__:
    assert getattr(cxr_ray, name) is first[name] and callable(first[name]) and first[name].__doc__, name
    assert getattr(cxr_ray, name).__name__ == name, name
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_name_is_not_that_of_a_subpackage() -> None:
    assert not {module.name for module in pkgutil.iter_modules(cxr_ray.__path__)} & set(cxr_ray._PUBLIC)


def test_table_all_and_type_checkers_have_the_same_names() -> None:
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(imported) == set(cxr_ray._PUBLIC) == set(cxr_ray.__all__) <= set(dir(cxr_ray))
    for name, (module, attribute) in imported.items():
        assert getattr(cxr_ray, name) is getattr(importlib.import_module(module), attribute), name


def test_the_list_of_names_loads_neither_torch_nor_ray() -> None:
    code = "import sys, cxr_ray; dir(cxr_ray); cxr_ray.load_config('preset:demo'); cxr_ray.UserError"
    code += "; assert not {'torch', 'ray', 'pandas'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_misspelt_name_gets_the_closest() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'load_modle'; did you mean 'load_model'\?"):
        cxr_ray.load_modle  # type: ignore[attr-defined]  # noqa: B018


# ---- first guesses that work


def test_a_loader_takes_the_store_itself(store: cxr_ray.Store) -> None:
    batch = next(iter(DataLoader(store, batch_size=4, num_workers=2)))  # type: ignore[arg-type]
    assert batch.image.shape == (4, 28, 28) and batch.image.dtype == torch.uint8
    assert batch.row.tolist() == [item.row for item in store[:4]]
    assert {label: values.tolist() for label, values in batch.labels.items()} == {
        label: [item.labels[label] for item in store[:4]] for label in store.labels
    }


def test_a_plain_torch_loop_learns(store: cxr_ray.Store) -> None:
    torch.manual_seed(0)
    model = cxr_ray.create_model("lenet", num_outputs=len(store.labels), image_size=28)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        total = 0.0
        for images, targets, _ in DataLoader(store.dataset("train"), batch_size=16):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)
    assert losses[-1] < 0.9 * losses[0]


def test_a_predictor_takes_what_people_have(run: cxr_ray.Run, store: cxr_ray.Store, tmp_path: Path) -> None:
    predictor, image = cxr_ray.load_predictor(run, gpu=False), store[0].image
    expected = predictor.rows(store, np.array([store[0].row]))
    Image.fromarray(image).save(tmp_path / "x.png")
    given: list[Any] = [
        image, image[None], image[None, None], torch.from_numpy(image), image.astype(np.float32), Image.fromarray(image),
        str(tmp_path / "x.png"), tmp_path / "x.png", [tmp_path / "x.png"],
    ]  # fmt: skip
    for images in given:
        assert np.allclose(predictor(images), expected, atol=1e-6)


def test_the_records_of_the_readme_are_ingested(ray_local: None, tmp_path: Path) -> None:
    root = generate.write(tmp_path / "raw", patients=4, size=40, seed=1)
    records = cxr_ray.read_dataset("phantom", root)
    store = cxr_ray.ingest(records, root, tmp_path / "shards", size=32, log=quiet)
    assert len(store) == len(records.table) and cxr_ray.verify(store) == []


def test_the_trained_model_is_a_module(run: cxr_ray.Run, store: cxr_ray.Store) -> None:
    model = cxr_ray.load_model(run.path)
    assert isinstance(model, torch.nn.Module) and not model.training
    assert model(torch.from_numpy(store[0].image)[None]).shape == (1, 3)


# ---- first guesses that are answered in one line


GUESSES: dict[str, tuple[Callable[[cxr_ray.Store, cxr_ray.Run], Any], str]] = {
    "create_model without outputs": (lambda store, run: cxr_ray.create_model("resnet18"), "num_outputs="),
    "num_classes": (lambda store, run: cxr_ray.create_model("resnet18", num_classes=2), "num_outputs"),
    "train of a preset": (lambda store, run: cxr_ray.train("preset:demo"), "load_config"),  # type: ignore[arg-type]
    "train without a store": (lambda store, run: cxr_ray.train({}), "no store is given: set data.shards"),
    "a float image in 0..1": (
        lambda store, run: cxr_ray.load_predictor(run, gpu=False)(store[0].image / 255), "value_range="
    ),
    "a colour array": (
        lambda store, run: cxr_ray.load_predictor(run, gpu=False)(np.zeros((28, 28, 3), np.uint8)), "colour"
    ),
    "a missing file": (lambda store, run: cxr_ray.load_predictor(run, gpu=False)("x.png"), "no image file at"),
    "a table for ingest": (lambda store, run: cxr_ray.ingest(store.index, ".", "out"), "read_dataset"),  # type: ignore[arg-type]
    "a store that is none": (lambda store, run: cxr_ray.open_store(run.path), "is not a store"),
    "a run that is none": (lambda store, run: cxr_ray.load_run(store.path), "is not a run folder"),
    "no path of a run": (lambda store, run: cxr_ray.load_run(None), "a run is given by its path, got None"),  # type: ignore[arg-type]
    "a number to resume": (lambda store, run: cxr_ray.resume(3), "a run is given by its path"),  # type: ignore[arg-type]
    "no path of a model": (lambda store, run: cxr_ray.load_model(None), "given by its path"),  # type: ignore[arg-type]
    "no path of a predictor": (lambda store, run: cxr_ray.load_predictor(0), "given by its path"),  # type: ignore[arg-type]
    "no path of a sweep": (lambda store, run: cxr_ray.load_sweep(None), "a sweep is given by its path"),  # type: ignore[arg-type]
    "no path of a store": (lambda store, run: cxr_ray.open_store(None), "expected a path"),  # type: ignore[arg-type]
    "no path of a phantom": (lambda store, run: cxr_ray.make_phantom(None), "given by its path"),  # type: ignore[arg-type]
    "a config of a number": (lambda store, run: cxr_ray.load_config(3), "a YAML file or preset:NAME"),  # type: ignore[arg-type]
    "a run at a URL": (lambda store, run: cxr_ray.load_run("s3://bucket/run"), "copy it to this machine"),
    "a comparison of one run": (lambda store, run: cxr_ray.compare(run), "in a list"),  # type: ignore[arg-type]
    "a comparison of nothing": (lambda store, run: cxr_ray.compare(None), "in a list"),  # type: ignore[arg-type]
    "an ensemble of nothing": (lambda store, run: cxr_ray.make_ensemble("x", None), "in a list"),  # type: ignore[arg-type]
    "an ensemble without a path": (lambda store, run: cxr_ray.make_ensemble(None, [run]), "given by its path"),  # type: ignore[arg-type]
    "a GPU called foo": (lambda store, run: cxr_ray.load_predictor(run, gpu="foo"), "auto, true or false"),
    "a z-scored image": (
        lambda store, run: cxr_ray.load_predictor(run, gpu=False)((store[0].image - 100.0) / 50.0), "undo their normalisation"
    ),
    "a misspelt part": (lambda store, run: store.dataset("training"), "did you mean 'train'"),  # type: ignore[arg-type]
    "a misspelt setting": (lambda store, run: cxr_ray.load_config(**{"optim.learning_rate": 1}), "did you mean optim.lr?"),
}  # fmt: skip


@pytest.mark.parametrize("guess", GUESSES)
def test_a_wrong_guess_is_answered_in_one_line(
    guess: str, store: cxr_ray.Store, run: cxr_ray.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, answer = GUESSES[guess]
    with pytest.raises(cxr_ray.UserError) as caught:
        call(store, run)
    assert answer in str(caught.value) and "\n" not in str(caught.value)


# ---- types


USER = """
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

import cxr_ray

config: cxr_ray.Config = cxr_ray.load_config("preset:demo", **{"optim.lr": 1e-4}, train={"epochs": 1})
names: list[str] = cxr_ray.list_datasets() + cxr_ray.list_models()
raw: Path = cxr_ray.make_phantom("raw", patients=4, size=64, seed=1)
records: cxr_ray.Records = cxr_ray.read_dataset("phantom", raw)
store: cxr_ray.Store = cxr_ray.ingest(records, "raw", "shards", size=(64, 64))
store = cxr_ray.ingest("image_folder", "raw", "shards", size=64, aspect="pad", options={"patient_regex": "x"})
store = cxr_ray.open_store("shards")
problems: list[str] = cxr_ray.verify(store)
count: int = len(store)
row: int = store[0].row
value: float = store[-1].labels["Edema"]
rows: list[int] = [item.row for item in store[2:5]] + [item.row for item in store]
shape: tuple[int, ...] = store[0].image.shape
store.show(row).savefig("row.png")

model: torch.nn.Module = cxr_ray.create_model("resnet18", num_outputs=len(store.labels), value_range=(0, 1), dropout=0.1)
optimizer = torch.optim.Adam(model.parameters())
for images, targets, _ in DataLoader(store.dataset("train"), batch_size=8, num_workers=2):
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images), targets)
    loss.backward()  # type: ignore[no-untyped-call]
cxr_ray.save_model("model.safetensors", model, labels=store.labels)

run: cxr_ray.Run = cxr_ray.train(config)
run = cxr_ray.train({"data.shards": store, "train": {"epochs": 1}}, plugins=["mine"])
run = cxr_ray.resume(run)
run = cxr_ray.load_run("runs/a")
both: cxr_ray.Run = cxr_ray.make_ensemble("runs/both", [run, "runs/b"])
module: torch.nn.Module = cxr_ray.load_model(run).eval()
predictor: cxr_ray.Predictor = cxr_ray.load_predictor("runs/a")
table: np.ndarray = predictor(["x.png", "y.dcm"])
table = predictor(store[0].image)
try:
    cxr_ray.open_store("none")
except cxr_ray.UserError as error:
    print(error)
"""
WRONG = """
import cxr_ray

cxr_ray.train(3)
cxr_ray.open_store("x").dataset("trian")
cxr_ray.load_everything()
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_mypy_checks_the_code_of_a_user(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\nfollow_imports = silent\n")

    def complaints(code: str) -> list[str]:
        (tmp_path / "user.py").write_text(code)
        command = [sys.executable, "-m", "mypy", "user.py"]
        environment = {**os.environ, "MYPYPATH": str(ROOT)}
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert not found.stderr, found.stderr
        return [line for line in found.stdout.splitlines() if "error:" in line]

    assert complaints(USER) == []
    wrong = complaints(WRONG)
    assert [line.split(":")[1] for line in wrong] == ["4", "5", "6"], wrong
