"""explain: maps of runs, files, ensembles and pictures; what is written; every mistake is one line that leaves nothing behind."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import cxr_ray
from cxr_ray.explanation.methods import METHODS, Attribution, Certificate
from cxr_ray.plotting.explanation_plots import Scale
from cxr_ray.workflows import teaching_figures
from tests.fakes.explained import quiet, store, trained


def explain(*args: Any, **options: Any) -> cxr_ray.Explanation:
    return cxr_ray.explain(*args, **{"log": quiet, "gpu": False, **options})


# ---- what is explained


def test_the_default_is_the_notebook_on_the_predicted_class() -> None:
    run = trained("multiclass")
    found = explain(run, limit=5)
    assert list(found.maps) == ["saliency", "lrp_epsilon", "lrp_alphabeta"]
    assert len(found) == 5 and found.images.shape == (5, 28, 28)
    prob = cxr_ray.load_predictor(run, gpu=False)(store("multiclass").images(found.rows))
    labels = run.info["labels"]
    assert list(found.labels) == [labels[at] for at in prob.argmax(axis=1)]
    np.testing.assert_allclose(found.probabilities, prob.max(axis=1), atol=2e-3)
    assert set(found.certificates["method"]) == {"lrp_epsilon", "lrp_alphabeta"}
    np.testing.assert_allclose(
        found.certificates.loc[found.certificates["method"] == "lrp_epsilon", "logit"], found.logits, rtol=1e-4
    )
    sums = found.maps["lrp_epsilon"].sum(axis=(1, 2))
    of_epsilon = found.certificates[found.certificates["method"] == "lrp_epsilon"]
    np.testing.assert_allclose(of_epsilon["relevance"], sums, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.table["lrp_epsilon"], sums, rtol=1e-4, atol=1e-5)


def test_saliency_of_a_label_is_the_gradient_of_its_logit() -> None:
    run = trained()
    found = explain(run, methods="saliency", target="Mass", rows=[9, 3])
    model = cxr_ray.load_model(run)
    x = model.preprocess(torch.from_numpy(store().images([9, 3]))).detach().requires_grad_(True)
    logit = model.backbone(x)[:, run.info["labels"].index("Mass")]
    (gradient,) = torch.autograd.grad(logit.sum(), x)
    np.testing.assert_allclose(found.maps["saliency"], gradient.abs().amax(1).numpy(), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.logits, logit.detach().numpy(), rtol=1e-5)
    assert found.rows.tolist() == [9, 3] and list(found.labels) == ["Mass", "Mass"]


def test_batches_do_not_change_maps() -> None:
    one, all_ = (explain(trained(), limit=7, methods="saliency", batch_size=size) for size in (2, 7))
    np.testing.assert_allclose(one.maps["saliency"], all_.maps["saliency"], rtol=1e-4, atol=1e-6)


def test_several_labels_give_a_map_each() -> None:
    found = explain(trained(), target="all", rows=[3, 6], methods=["saliency"])
    assert list(found.labels) == ["Edema", "Mass", "Effusion"] * 2
    assert found.rows.tolist() == [3] * 3 + [6] * 3
    assert "labels-saliency" in found.figures()
    alone = explain(trained(), target=["Effusion"], rows=[6], methods=["saliency"])
    np.testing.assert_allclose(found.maps["saliency"][5], alone.maps["saliency"][0], rtol=1e-5, atol=1e-8)


def test_a_class_selects_its_first_positives_of_the_part() -> None:
    run = trained("multiclass")
    plan, truth = run.plan, store("multiclass").index.set_index("row")["Mass"]
    test = sorted(plan.loc[plan["part"] == "test", "row"])
    expected = [row for row in test if truth[row] == 1][:2]
    assert explain(run, class_name="Mass", limit=2, methods="saliency").rows.tolist() == expected


def test_options_reach_the_method() -> None:
    weak, strong = (
        explain(trained(), limit=2, methods=["lrp_epsilon"], options={"lrp_epsilon": {"epsilon": e}})
        for e in (0.0, 10.0)
    )
    assert abs(strong.certificates["epsilon"]).sum() > abs(weak.certificates["epsilon"]).sum() + 1e-6


def test_arrays_pictures_and_folders(tmp_path: Path) -> None:
    pixels = store().images([3, 6])
    for at, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"{at}.png")
    from_array = explain(trained(), pixels, methods="saliency")
    assert from_array.rows.tolist() == [0, 1]
    for images in (tmp_path, str(tmp_path), [tmp_path / "0.png", tmp_path / "1.png"]):
        found = explain(trained(), images, methods="saliency")
        np.testing.assert_allclose(found.maps["saliency"], from_array.maps["saliency"], rtol=1e-4, atol=1e-6)
    assert len(explain(trained(), tmp_path / "1.png", methods="saliency")) == 1
    assert len(explain(trained(), pixels[0], methods="saliency")) == 1
    assert len(explain(trained(), tmp_path, methods="saliency", limit=1)) == 1


def test_a_file_of_weights_a_model_and_a_predictor_are_explained_like_their_run() -> None:
    run, pixels = trained(), store().images([3])
    expected = explain(run, pixels, methods="saliency", target="Mass").maps["saliency"]
    for model in (run.weights, cxr_ray.load_predictor(run, gpu=False), run.path, str(run.path)):
        np.testing.assert_array_equal(
            explain(model, pixels, methods="saliency", target="Mass").maps["saliency"], expected
        )
    found = explain(cxr_ray.load_model(run), pixels, methods="saliency", target="output 1")
    np.testing.assert_array_equal(found.maps["saliency"], expected)


def test_an_ensemble_has_the_maps_of_each_member_and_their_mean(tmp_path: Path) -> None:
    members = [trained(), trained(seed=1)]
    both = cxr_ray.make_ensemble(tmp_path / "both", members)
    found = explain(both, limit=3, methods=["lrp_epsilon"], target="Mass", out=tmp_path / "out")
    names = [f"lrp_epsilon/{member.path.name}" for member in members]
    assert list(found.maps) == ["lrp_epsilon", *names]
    np.testing.assert_allclose(found.maps["lrp_epsilon"], np.mean([found.maps[n] for n in names], axis=0), rtol=1e-5)
    for name, member in zip(names, members, strict=True):
        own = explain(member, limit=3, methods=["lrp_epsilon"], target="Mass")
        np.testing.assert_allclose(found.maps[name], own.maps["lrp_epsilon"], rtol=1e-4, atol=1e-6)
    assert set(found.certificates["method"]) == set(names)


# ---- what is written


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> cxr_ray.Explanation:
    return explain(trained("multiclass"), limit=7, out=tmp_path_factory.mktemp("explain") / "out", split="train")


def test_the_folder_holds_maps_certificates_pictures_and_the_page(written: cxr_ray.Explanation) -> None:
    assert written.page is not None
    folder = written.page.parent
    names = {path.name for path in folder.iterdir()}
    assert {"maps.npz", "certificates.csv", "explain.html", "side_by_side.png"} <= names
    assert {f"{kind}-{method}.png" for kind in ("overlays", "grid") for method in written.maps} <= names
    in_memory = explain(trained("multiclass"), limit=7, split="train")
    with np.load(folder / "maps.npz", allow_pickle=False) as found:
        assert found["rows"].tolist() == in_memory.rows.tolist() and found["labels"].tolist() == list(in_memory.labels)
        for method, maps in in_memory.maps.items():
            np.testing.assert_array_equal(found[method], maps)
            np.testing.assert_array_equal(written.maps[method], maps)
    table = pd.read_csv(folder / "certificates.csv")
    assert list(table.columns) == ["method", "row", "label", "logit", "relevance", "bias", "clip", "epsilon", "adds_up"]
    assert len(table) == 2 * 7
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()


def test_the_same_command_replaces_its_folder_and_no_other(tmp_path: Path) -> None:
    for _ in range(2):
        found = explain(trained(), limit=2, methods="saliency", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and len(found) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(cxr_ray.UserError, match="exists and was not written by this command"):
        explain(trained(), limit=2, methods="saliency", out=tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_a_terminated_process_leaves_nothing(tmp_path: Path) -> None:
    """A method that terminates the process in the second batch, as a scheduler would."""

    def stopped(network: Any, inputs: torch.Tensor, targets: torch.Tensor, options: Any) -> Attribution:
        assert list(tmp_path.iterdir())  # the hidden folder that becomes the result
        if len(inputs) < 3:
            signal.raise_signal(signal.SIGTERM)
        return Attribution(inputs.sum(1), torch.zeros(len(inputs)))

    before = signal.getsignal(signal.SIGTERM)
    METHODS.register("stopped")(stopped)
    try:
        with pytest.raises(SystemExit) as ended:
            explain(trained(), limit=5, batch_size=3, methods=["stopped"], out=tmp_path / "out")
    finally:
        METHODS.unregister("stopped")
    assert ended.value.code == 143 and not list(tmp_path.iterdir()) and signal.getsignal(signal.SIGTERM) is before


def test_a_certificate_that_fails_is_marked_everywhere(tmp_path: Path) -> None:
    def half_right(network: Any, inputs: torch.Tensor, targets: torch.Tensor, options: Any) -> Attribution:
        """A map whose certificate holds for every other image."""
        n = len(inputs)
        zero, holds = torch.zeros(n), torch.arange(n) % 2 == 0
        return Attribution(inputs.sum(1), zero, Certificate(zero, zero, zero, zero, zero, holds, "a = b"))

    METHODS.register("half_right")(half_right)
    try:
        found = explain(trained(), limit=4, methods=["half_right"], target="Mass", out=tmp_path / "out")
    finally:
        METHODS.unregister("half_right")
    assert [found.is_failed("half_right", n) for n in range(4)] == [False, True, False, True]
    assert "2 maps do not add up" in repr(found)
    texts = [axes.get_title(loc="left") for axes in found.figure().axes]
    assert sum("does not add up" in text for text in texts) == 2
    page = (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
    assert "2 maps do not add up to the logit" in page and "2 of 4" in page and page.count('"failed": true') == 2
    assert pd.read_csv(tmp_path / "out" / "certificates.csv")["adds_up"].tolist() == [True, False, True, False]


def test_the_result_shows_itself(written: cxr_ray.Explanation) -> None:
    html = written._repr_html_()
    assert "lrp_epsilon" in html and "data:image" in html and "secret" not in html
    assert list(written.table.columns) == ["row", "label", "probability", "logit", *written.maps]
    with pytest.raises(cxr_ray.UserError, match=r"unknown figure 'side_by_sid'.*did you mean 'side_by_side'"):
        written.figure("side_by_sid")


def test_scales_are_symmetric_for_signed_maps_and_can_be_set() -> None:
    found = explain(trained(), limit=3, methods=["saliency", "gradient_x_input"], scale=0.1)
    assert found.scales == {"saliency": Scale(0.1, False), "gradient_x_input": Scale(0.1, True)}
    norm = found.scales["gradient_x_input"].mappable().norm
    assert (norm.vmin, norm.vmax) == (-0.1, 0.1)


# ---- mistakes


def broken_weights(folder: Path) -> Path:
    from cxr_ray.models import serialization

    saved = serialization.read(trained().weights)
    tensors = load_file(trained().weights)
    tensors[next(iter(tensors))].view(-1)[0] = float("nan")
    path = folder / "broken.safetensors"
    serialization.write(path, saved.model, tensors, labels=saved.labels, task=saved.task, precision="fp32")
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "salincy"}, r"unknown explanation method 'salincy'.*did you mean 'saliency'"),
        ({"methods": []}, "name at least one explanation method"),
        ({"target": "Edma"}, r"unknown label 'Edma'.*did you mean 'Edema'"),
        ({"target": "1"}, "by its name, not its number 1: number 1, counted from 0, is 'Mass'"),
        ({"target": "7"}, "by its name, not its number 7; known: Edema"),
        ({"class_name": "Efusion"}, r"did you mean 'Effusion'"),
        ({"class_name": "2"}, "is 'Effusion'"),
        ({"rows": [3, 4]}, "has no row 4; its rows are 3 to 180"),
        ({"rows": [3], "class_name": "Mass"}, "not both"),
        ({"rows": [3], "split": "val"}, "not both"),
        ({"split": "tset"}, r"unknown split 'tset'.*did you mean 'test'"),
        ({"target": 1}, "by its name, not its number 1: number 1, counted from 0, is 'Mass'"),
        ({"target": ["all", "Mass"]}, "`all` stands alone"),
        ({"rows": [3.5]}, "a row is a whole number, got 3.5"),
        ({"limit": 2.5}, "the limit is a whole number, got 2.5"),
        ({"limit": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"scale": -1.0}, "above 0"),
        ({"options": {"saliency": {"epsilon": 1}}}, "unknown option 'epsilon'"),
        ({"options": {"gradcam": {}}}, "options of gradcam, which is not among the methods saliency"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(cxr_ray.UserError, match=message) as error:
        explain(trained(), **{"methods": "saliency", "out": tmp_path / "out", **options})
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.arange(400, dtype=np.uint8).reshape(1, 20, 20), {}, "needs 28 x 28 pixels and the images have 20 x 20"),
        (np.full((2, 28, 28), 7, np.uint8), {}, "row 0 is constant"),
        ("nowhere.png", {}, "no image file"),
        (np.zeros((0, 28, 28), np.uint8), {}, "no image to explain"),
        (np.zeros((1, 28, 28), np.uint8), {"rows": [1]}, "--rows selects images of a store"),
        (np.zeros((1, 28, 28), np.uint8), {"class_name": "Mass"}, "--class selects images of a store"),
        (3, {}, "takes arrays|may contain"),
    ],
)
def test_images_that_cannot_be_explained(images: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(cxr_ray.UserError, match=message):
        explain(trained(), images, methods="saliency", out=tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    path = broken_weights(tmp_path)
    with pytest.raises(cxr_ray.UserError, match=r"the weights of model are not finite \(1 tensors"):
        explain(path, store().images([3]), methods="saliency")
    with pytest.raises(cxr_ray.UserError, match=r"the weights of the model are not finite"):
        teaching_figures.draw(cxr_ray.load_predictor(path, gpu=False), store().images([3])[0], ["filters"])


def test_a_plain_torch_module_is_refused() -> None:
    with pytest.raises(cxr_ray.UserError, match="not another torch module"):
        explain(torch.nn.Linear(3, 2), np.zeros((1, 28, 28), np.uint8))


def test_a_default_that_a_network_cannot_have_is_left_out_with_a_note() -> None:
    lines: list[str] = []
    found = explain(trained(), limit=1, log=lines.append)
    assert list(found.maps) == ["saliency", "lrp_epsilon", "lrp_alphabeta"] and not lines
