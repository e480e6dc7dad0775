"""First weights: files that fit, heads and stems that are adapted, and a message for each kind of file that does not fit."""

import pickle
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer, get_model

from cxr_ray import config, models
from cxr_ray.errors import UserError
from cxr_ray.models import serialization, weights


def build(
    name: str, source: str | Path, *, outputs: int = 3, size: int = 64, **hyperparameters: Any
) -> models.Classifier:
    model = config.Model(name=name, weights=str(source), **hyperparameters)
    return models.build(model, outputs=outputs, image_size=(size, size), mean=0.45, deviation=0.22).eval()


def published(name: str, path: Path, **settings: Any) -> nn.Module:
    """torchvision's network with 1,000 outputs and random weights, saved to `path` like a published one; in eval mode."""
    torch.manual_seed(7)
    network: nn.Module = get_model(name, weights=None, **settings)
    for module in network.modules():  # running statistics that differ from the initial ones
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
    torch.save(network.state_dict(), path)
    return network.eval()


def features(model: models.Classifier, network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of the heads: of our classifier on gray images, and of torchvision's on the same repeated."""
    inputs: list[torch.Tensor] = []
    hooks = [
        next(m for m in reversed(list(net.modules())) if isinstance(m, nn.Linear)).register_forward_pre_hook(
            lambda _m, x: inputs.append(x[0])
        )
        for net in (model.backbone, network)
    ]
    with torch.no_grad():
        model(images)
        network(((images.float()[:, None] / 255 - 0.45) / 0.22).repeat(1, 3, 1, 1))
    for hook in hooks:
        hook.remove()
    return inputs[0], inputs[1]


def images(size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (2, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stem", ["gray", "repeat"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_published_weights_give_the_colour_networks_features(name: str, stem: str, tmp_path: Path) -> None:
    network = published(name, tmp_path / "w.pth")
    ours, theirs = features(build(name, tmp_path / "w.pth", stem=stem), network, images())
    assert torch.allclose(ours, theirs, atol=1e-5 * float(theirs.abs().max().clamp(min=1)))


def test_real_mobilenet_file_gives_the_colour_networks_output(shared_data: Path) -> None:
    path = shared_data / "weights" / "mobilenet_v2-b0353104.pth"
    network = get_model("mobilenet_v2", weights=None)
    network.load_state_dict(torch.load(path, weights_only=True))
    network.eval()
    same = build("mobilenet_v2", path, outputs=1000, size=224)
    pictures = images(224)
    with torch.no_grad():
        ours = same(pictures)
        theirs = network(((pictures.float()[:, None] / 255 - 0.45) / 0.22).repeat(1, 3, 1, 1))
    assert torch.allclose(ours, theirs, atol=1e-5)
    smaller = build("mobilenet_v2", path, outputs=3, size=224)
    ours, theirs = features(smaller, network, pictures)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_head_of_a_different_size_keeps_its_random_weights(tmp_path: Path) -> None:
    published("resnet18", tmp_path / "w.pth")
    torch.manual_seed(0)
    fresh = build("resnet18", "none")
    torch.manual_seed(0)
    loaded = build("resnet18", tmp_path / "w.pth")
    assert torch.equal(fresh.backbone.fc.weight, loaded.backbone.fc.weight)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(fresh.backbone.conv1.weight, loaded.backbone.conv1.weight)  # type: ignore[union-attr, arg-type]
    state = weights.read(tmp_path / "w.pth")
    skipped = weights.fit(loaded.backbone, state, source="w.pth", name="resnet18", outputs=3)
    assert sorted(skipped) == ["fc.bias", "fc.weight"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["backbone.", "module.", ""])
def test_our_own_weights_are_loaded_with_their_head(suffix: str, prefix: str, tmp_path: Path) -> None:
    model = build("lenet", "none")
    state = {prefix + key.removeprefix("backbone."): value for key, value in model.state_dict().items()}
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    again = build("lenet", path)
    with torch.no_grad():
        assert torch.equal(again(images()), model(images()))


def test_gray_weights_fit_a_repeat_stem(tmp_path: Path) -> None:
    model = build("lenet", "none")
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    again = build("lenet", tmp_path / "m.safetensors", stem="repeat")
    with torch.no_grad():
        assert torch.allclose(again(images()), model(images()), atol=1e-5)


def test_densenets_published_names_are_renamed(tmp_path: Path) -> None:
    """The published files have `norm.1`, torchvision's modules `norm1`."""
    network = published("densenet121", tmp_path / "new.pth")
    old = {}
    for key, value in network.state_dict().items():
        for kind in ("norm", "conv"):
            for number in "12":
                if "denselayer" in key:
                    key = key.replace(f".{kind}{number}.", f".{kind}.{number}.")
        if not key.endswith("num_batches_tracked"):
            old[key] = value
    assert any(".norm.1." in key for key in old)
    torch.save(old, tmp_path / "old.pth")
    ours, theirs = features(build("densenet121", tmp_path / "old.pth"), network, images())
    assert torch.allclose(ours, theirs, atol=1e-5)


def small_vit(size: int) -> VisionTransformer:
    torch.manual_seed(size)
    return VisionTransformer(
        image_size=size, patch_size=32, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3
    ).eval()


def test_position_embeddings_are_interpolated_and_old_names_renamed() -> None:
    network = small_vit(64)
    state = network.state_dict()
    old = {k.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v for k, v in state.items()}
    assert old.keys() != state.keys()
    same, larger = VisionTransformer(64, 32, 2, 2, 16, 32, num_classes=3).eval(), small_vit(96)
    for target in (same, larger):
        weights.fit(target, old, source="old", name="vit", outputs=3)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(same(x), network(x))
    new, old_table = larger.encoder.pos_embedding, state["encoder.pos_embedding"]
    assert new.shape == (1, 10, 16) and torch.equal(new[:, 0], old_table[:, 0])
    # 2 x 2 positions interpolated to 3 x 3 with aligned corners
    assert torch.allclose(new[:, [1, 3, 7, 9]], old_table[:, 1:], atol=1e-5)


@pytest.mark.parametrize("auxiliary", [0.0, 0.3])
def test_published_auxiliary_heads_are_skipped_and_our_own_are_loaded(auxiliary: float, tmp_path: Path) -> None:
    network = published("googlenet", tmp_path / "w.pth", aux_logits=True, init_weights=False)
    ours, theirs = features(build("googlenet", tmp_path / "w.pth", options={"auxiliary": auxiliary}), network, images())
    assert torch.allclose(ours, theirs, atol=1e-5)
    model = build("googlenet", "none", options={"auxiliary": auxiliary})
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    again = build("googlenet", tmp_path / "own.safetensors")
    loaded = {
        key for key, value in again.state_dict().items() if torch.equal(value, model.state_dict().get(key, value + 1))
    }
    assert any(".aux1." in key for key in loaded) == bool(auxiliary)
    assert loaded >= {key for key in again.state_dict() if ".aux" not in key}


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_an_appended_head_leaves_the_published_one_unchanged(name: str, tmp_path: Path) -> None:
    """Our 1,000-way layer gives the output of the colour network's, and the fresh layer follows it."""
    network = published(name, tmp_path / "w.pth")
    model = build(name, tmp_path / "w.pth", head="append")
    inputs: list[torch.Tensor] = []
    head = model.backbone.get_submodule("fc" if name == "resnet18" else "classifier.1")
    head.get_submodule("appended").register_forward_pre_hook(lambda _m, x: inputs.append(x[0]))
    with torch.no_grad():
        model(images())
        theirs = network(((images().float()[:, None] / 255 - 0.45) / 0.22).repeat(1, 3, 1, 1))
    ours = inputs[0] if name == "resnet18" else inputs[0].relu().mean(dim=(2, 3))  # torchvision applies ReLU and pools
    assert torch.allclose(ours, theirs, atol=1e-5)
    again = build(name, tmp_path / "w.pth", outputs=3)  # and back: an appended head does not fit, and is skipped
    state = {key.removeprefix("backbone."): value for key, value in model.state_dict().items()}
    skipped = weights.fit(again.backbone, state, source="w", name=name, outputs=3)
    assert len(skipped) == 4 and all(key.startswith(("fc.", "classifier.1.")) for key in skipped)


def test_weights_from_the_folder_of_another_run(tmp_path: Path) -> None:
    model = build("lenet", "none")
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"contains no model.safetensors \(the run has no model yet\)"):
        build("lenet", run)
    serialization.write(
        run / "model.safetensors",
        model,
        model.state_dict(),
        labels=["a", "b", "c"],
        task="multilabel",
        precision="fp32",
    )
    for source in (run, run / "model.safetensors"):
        with torch.no_grad():
            assert torch.equal(build("lenet", source)(images()), model(images()))
    with pytest.raises(UserError, match="does not fit covid_cnn"):
        build("covid_cnn", run)


def test_weights_of_another_network(tmp_path: Path) -> None:
    published("resnet34", tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"does not fit resnet18: unknown: layer1\.2\.conv1\.weight, .* more\. Is model\.name"
    ):
        build("resnet18", tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"does not fit lenet: missing: features\.0\.weight"):
        build("lenet", tmp_path / "w.pth")


def test_a_tensor_of_a_different_shape_or_missing(tmp_path: Path) -> None:
    state = dict(build("lenet", "none", size=64).state_dict())
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"different shape: classifier\.1\.weight is \[120, 3136\] and should be \[120, 7744\]"
    ):
        build("lenet", tmp_path / "w.pth", size=96)
    del state["backbone.features.3.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"missing: features\.3\.bias\."):
        build("lenet", tmp_path / "w.pth")


def test_a_file_that_does_not_fit_changes_nothing() -> None:
    model = build("lenet", "none")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: value + 1 for key, value in model.backbone.state_dict().items() if key != "features.3.bias"}
    with pytest.raises(UserError):
        weights.fit(model.backbone, state, source="w", name="lenet", outputs=3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("1 + 1",))


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_pickle_with_code_is_not_run(protocol: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    if protocol == "torch":
        torch.save({"weight": Code()}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Code()}, protocol=2))
    with pytest.raises(UserError, match="could run code and is not read"):
        build("lenet", path)


@pytest.mark.parametrize("body", [{"epoch": 3}, [1, 2], {}, {"state_dict": {"a": 1}}])
def test_no_state_dict(body: Any, tmp_path: Path) -> None:
    torch.save(body, tmp_path / "w.pth")
    with pytest.raises(UserError, match="contains no state_dict"):
        build("lenet", tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("length", [0, 100, 0.5, 0.99])
def test_a_truncated_file(name: str, length: float, tmp_path: Path) -> None:
    path = tmp_path / name
    state = build("lenet", "none").state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(length if length > 1 else length * len(data))])
    with pytest.raises(UserError, match=r"model\.weights: .*w\.") as caught:
        build("lenet", path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*none, imagenet, the path of"):
        build("lenet", tmp_path / "gone.pth")
    with pytest.raises(UserError, match="not a run folder"):
        build("lenet", tmp_path)


def test_imagenet_without_a_network_names_the_file_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_args: Any, **_kwargs: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(
        UserError, match=r"give a file with model\.weights: PATH \(get resnet18-\w+\.pth from http"
    ) as caught:
        build("resnet18", "imagenet")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no ImageNet weights for lenet"):
        build("lenet", "imagenet")


def test_imagenet_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    network = published("resnet18", folder / ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    ours, theirs = features(build("resnet18", "imagenet"), network, images())
    assert torch.allclose(ours, theirs, atol=1e-5 * float(theirs.abs().max().clamp(min=1)))
