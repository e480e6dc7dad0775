"""Models: shapes of the mission's networks, every torchvision name, stems and heads, preprocessing, descriptions."""

import json
import re
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import get_model, list_models

from cxr_ray import config, models
from cxr_ray.data.loader import rank_slice
from cxr_ray.errors import UserError
from cxr_ray.models import dropout, family, norms, summary
from cxr_ray.models import heads as ends
from cxr_ray.registry import MODELS

ZOO = list_models(module=torchvision.models)


def build(
    name: str, *, outputs: int = 5, size: tuple[int, int] = (32, 32), seed: int = 0, **hyperparameters: Any
) -> models.Classifier:
    torch.manual_seed(seed)
    return models.build(
        config.Model(name=name, **hyperparameters), outputs=outputs, image_size=size, mean=0.5, deviation=0.25
    )


def gray(n: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def shapes(network: nn.Module, x: Tensor) -> list[list[int]]:
    """Shapes after every layer that has no layers inside."""
    seen: list[list[int]] = []
    hooks = [
        m.register_forward_hook(lambda _m, _x, y: seen.append(list(y.shape[1:])))
        for m in network.modules()
        if not list(m.children())
    ]
    network.eval()(x)
    for hook in hooks:
        hook.remove()
    return seen


def test_lenet_is_the_books() -> None:
    network = build("lenet", outputs=10, size=(28, 28)).backbone
    assert shapes(network, torch.zeros(1, 1, 28, 28)) == [
        [6, 28, 28], [6, 28, 28], [6, 14, 14], [16, 10, 10], [16, 10, 10], [16, 5, 5],
        [400], [120], [120], [84], [84], [10],
    ]  # fmt: skip
    assert models.parameter_count(network) == (25 * 6 + 6) + (150 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + 850
    assert [type(m) for m in network.modules() if isinstance(m, nn.AvgPool2d)] == [nn.AvgPool2d] * 2


@pytest.mark.parametrize("size", [(12, 12), (13, 30), (64, 48)])
def test_lenets_first_linear_follows_the_size(size: tuple[int, int]) -> None:
    model = build("lenet", outputs=3, size=size)
    height, width = ((side // 2 - 4) // 2 for side in size)
    assert model.backbone.classifier[1].in_features == 16 * height * width  # type: ignore[union-attr, index]
    assert model(gray(2, size)).shape == (2, 3)


def test_covid_cnn_is_the_notebooks() -> None:
    network = build("covid_cnn", outputs=1, size=(224, 224)).backbone
    seen = shapes(network, torch.zeros(1, 1, 224, 224))
    wanted = [
        [32, 222, 222],
        [64, 220, 220],
        [64, 110, 110],
        [128, 108, 108],
        [128, 54, 54],
        [128, 2, 2],
        [512],
        [64],
        [1],
    ]
    assert [shape for before, shape in zip([None, *seen], seen, strict=False) if shape != before] == wanted
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25, 0.5]
    kinds = [type(m).__name__ for m in network.modules() if not list(m.children())]
    assert kinds == [
        "Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d", "Dropout", "Conv2d", "ReLU", "MaxPool2d", "Dropout",
        "AdaptiveAvgPool2d", "Flatten", "Linear", "ReLU", "Dropout", "Linear",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("lenet", (11, 40), "at least 12 x 12, not 11 x 40"),
        ("covid_cnn", (40, 11), "at least 12 x 12, not 40 x 11"),
        ("vit_b_16", (40, 40), "multiple of 16, such as [32, 32]"),
        ("vit_b_16", (32, 48), "square images, not 32 x 48"),
        ("maxvit_t", (320, 320), "multiple of 224, such as [224, 224]"),
        ("alexnet", (32, 32), "usually fed 224 x 224"),
    ],
)
def test_a_size_that_cannot_be_taken(name: str, size: tuple[int, int], said: str) -> None:
    with pytest.raises(UserError) as told, models.skeletons():
        build(name, size=size)
    assert said in str(told.value) and "\n" not in str(told.value)


FAMILIES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t",
    "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x1_0", "squeezenet1_1",
    "swin_t", "vgg11", "vit_b_16",
]  # fmt: skip
SMALL = ("mobilenet_v3_small", "resnet18", "densenet121", "googlenet", "shufflenet_v2_x1_0", "squeezenet1_1")
ALL_NAMES = [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in ZOO]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_torchvision_name_builds(name: str) -> None:
    """One gray channel in, [N, L] out; no memory is taken for weights."""
    entry = MODELS[name]
    size = models.family_of(entry).natural_size
    with models.skeletons():
        network = entry.make(outputs=7, channels=1, image_size=size, options=entry.parse({}, where="model.options"))
    with torch.no_grad():
        assert network.to("meta").eval()(torch.empty(2, 1, *size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_weights_stay_torchvisions(name: str) -> None:
    """Stem and head alone differ from the published network: by their shapes, not by their names."""
    settings: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        settings = {"aux_logits": name == "googlenet", "init_weights": False}
    entry = MODELS[name]
    with models.skeletons():
        ours = entry.make(
            outputs=7, channels=1, image_size=(224, 224), options=entry.parse({}, where="model.options")
        ).state_dict()
        network = get_model(name, weights=None, **settings)
        dropout.before_head(network.get_submodule(ends.head_name(network, 1000)), 0.5)
        theirs = network.state_dict()
    assert list(ours) == list(theirs)
    differ = [key.rpartition(".")[0] for key in ours if ours[key].shape != theirs[key].shape]
    wanted = {differ[0], differ[-1], *(["aux1.fc2", "aux2.fc2"] if name == "googlenet" else [])}
    assert set(differ) == wanted and len(wanted) >= 2


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "densenet121"])
def test_gray_stem_gives_what_the_colour_stem_gives_on_equal_channels(name: str) -> None:
    one, three = (build(name, size=(64, 64), stem=stem).eval() for stem in ("gray", "repeat"))
    images = gray(2, (64, 64))
    with torch.no_grad():
        assert torch.allclose(one(images), three(images), atol=1e-5)
    assert models.parameter_count(one) < models.parameter_count(three)


def test_squeezenet_gives_negative_logits() -> None:
    """torchvision's rectifies its logits: no probability would fall under one half."""
    logits = torch.cat(
        [build("squeezenet1_1", size=(64, 64), seed=seed).eval()(gray(2, (64, 64))) for seed in range(5)]
    )
    assert (logits < 0).any() and (logits > 0).any()


@pytest.mark.parametrize("name", ["lenet", "resnet18", "squeezenet1_1"])
def test_dropout_before_the_head(name: str) -> None:
    plain, dropped = build(name, size=(32, 32)), build(name, size=(32, 32), dropout=0.9)
    assert list(plain.state_dict()) == list(dropped.state_dict())
    images = gray(2, (32, 32))
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), dropped.eval()(images))
        dropped.train()
        for module in dropped.modules():  # batch norm as in eval: the head alone may differ
            module.training = isinstance(module, dropout.DropoutLinear | dropout.DropoutConv2d)
        first, second = dropped(images), dropped(images)
    assert not torch.allclose(first, second)
    assert "dropout=0.9" in repr(dropped)


def test_dropout_keeps_the_mean_of_what_enters_the_head() -> None:
    layer = dropout.DropoutLinear(1, 1, bias=False)
    layer.dropout = 0.25
    nn.init.ones_(layer.weight)
    torch.manual_seed(0)
    out = layer(torch.ones(20_000, 1))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs(float(out.detach().mean()) - 1.0) < 0.02


class Look(nn.Module):
    """Hands back what it is shown."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def classifier_of(network: nn.Module, size: tuple[int, int], stem: str = "gray") -> models.Classifier:
    return models.Classifier(
        network, name="look", options={}, stem=stem, dropout=0.0, outputs=1, image_size=size, mean=0.5, deviation=0.25
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_preprocessing_is_scaled_normalised_and_repeated(dtype: torch.dtype) -> None:
    images = gray(2, (6, 8))
    seen = classifier_of(Look(), (6, 8), "repeat")(images.to(dtype))
    assert seen.shape == (2, 3, 6, 8) and seen.dtype == torch.float32
    for n in range(2):
        for c in range(3):
            assert torch.allclose(seen[n, c], (images[n].double() / 255 - 0.5).float() / 0.25, atol=1e-6)


def test_resize_is_antialiased_area_for_whole_factors_and_never_up() -> None:
    look = classifier_of(Look(), (8, 4))
    flat = torch.full((1, 16, 16), 200, dtype=torch.uint8)
    assert torch.allclose(look(flat), torch.full((1, 1, 8, 4), (200 / 255 - 0.5) / 0.25), atol=1e-5)
    stripes = torch.zeros(1, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 255  # without antialiasing every kept column would be black or white
    seen = classifier_of(Look(), (16, 16))(stripes) * 0.25 + 0.5
    assert (seen[..., 2:-2] - 0.5).abs().max() < 0.02
    with pytest.raises(UserError, match=r"wants 8 x 4 pixels and the images have 16 x 3.*at most \[16, 3\]"):
        look(torch.zeros(1, 16, 3, dtype=torch.uint8))


def test_images_must_be_planes() -> None:
    with pytest.raises(ValueError, match="N, H, W"):
        build("lenet")(torch.zeros(1, 1, 32, 32))


def test_no_images_give_no_logits_zero_gradients_and_unmoved_statistics() -> None:
    model = build("resnet18")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    logits = model(gray(0, (32, 32)))
    assert logits.shape == (0, 5)
    logits.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    with torch.no_grad():
        assert model.eval()(gray(0, (32, 32))).shape == (0, 5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0", "googlenet"])
def test_one_small_image_trains_and_moves_no_statistics_that_it_has_not(name: str) -> None:
    """torch refuses one value a channel; there the running statistics hold, everywhere else the batch's own."""
    model = build(name, dropout=0.0)
    model(gray(4, (32, 32)))  # statistics of their own
    seen: dict[str, Tensor] = {}
    for at, module in model.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda m, x, y, at=at: seen.update({at: torch.stack([x[0].detach(), y.detach()])})
            )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    models.every_head(model(gray(1, (32, 32), seed=1)))[0].square().sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    ones = 0
    for at, (entered, got) in seen.items():
        module = model.backbone.get_submodule(at)
        held = {
            key.rpartition(".")[2]: value for key, value in before.items() if key.rpartition(".")[0] == f"backbone.{at}"
        }
        one = entered[0, 0].numel() == 1
        ones += one
        mean, var = held["running_mean"], held["running_var"]
        if not one:
            mean, var = entered.mean(dim=(0, 2, 3)), entered.var(dim=(0, 2, 3), unbiased=False)
        scale = held["weight"] / (var + module.eps).sqrt()  # type: ignore[operator]
        wanted = (entered - mean[:, None, None]) * scale[:, None, None] + held["bias"][:, None, None]
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)
        assert torch.equal(module.running_mean, held["running_mean"]) == one  # type: ignore[arg-type]
        assert int(module.num_batches_tracked) == int(held["num_batches_tracked"]) + (not one)  # type: ignore[arg-type]
    assert ones


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 9))
def test_batch_norm_over_ranks_leaves_no_rank_without_rows(rows: int, size: int, workers: int) -> None:
    """Ranks that have rows wait in every norm for one that has none: told before the first step, with a size that serves."""

    def empty(size: int) -> bool:
        batches = [range(rows)[at : at + size] for at in range(0, rows, size)]
        return any(not len(b[rank_slice(len(b), rank, workers)]) for b in batches for rank in range(workers))

    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    train = config.Train(batch_size=size, workers=workers, sync_batch_norm=True)

    def over(train: config.Train) -> None:
        norms.over_ranks(network, torch.device("cuda"), train, rows=rows, world=workers)

    if not empty(size):
        over(train)
        assert isinstance(network[1], nn.SyncBatchNorm if workers > 1 else nn.BatchNorm2d)
        return
    with pytest.raises(UserError, match=r"workers may be without: set train\.(batch_size|workers) to (\d+)") as said:
        over(train)
    found = re.search(r"set train\.(\w+) to (\d+)", str(said.value))
    assert found is not None and type(network[1]) is nn.BatchNorm2d
    if found[1] == "batch_size":
        assert not empty(int(found[2])) and int(found[2]) >= size
    else:
        assert rows < workers and int(found[2]) == rows


def test_channels_last_changes_the_layout_alone() -> None:
    model = build("resnet18", stem="repeat").eval()
    images = gray(2, (32, 32))
    with torch.no_grad():
        plain = model(images)
        model.to(memory_format=torch.channels_last)
        assert model.preprocess(images).is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(model(images), plain, atol=1e-4)
    assert model.to("cpu").channels_last
    assert not model.to(memory_format=torch.contiguous_format).channels_last


@pytest.mark.parametrize("name", ["lenet", "mnasnet0_5"])
def test_description_rebuilds_the_module(name: str) -> None:
    model = build(name, size=(32, 32), stem="repeat", dropout=0.2).eval()
    description = json.loads(json.dumps(model.describe()))
    assert description["parameters"] == models.parameter_count(model)
    state = torch.get_rng_state()
    again = models.from_description(description)
    assert torch.equal(state, torch.get_rng_state())
    assert not again.training and again.describe() == model.describe()
    again.load_state_dict(dict(model.state_dict()))  # a plain mapping, as safetensors gives
    with torch.no_grad():
        assert torch.equal(again(gray(2, (40, 32))), model(gray(2, (40, 32))))


def test_description_must_be_whole() -> None:
    with pytest.raises(UserError, match="lacks stem"):
        models.from_description({k: v for k, v in build("lenet").describe().items() if k != "stem"})


def test_normalisation_is_not_among_the_weights() -> None:
    assert all(key.startswith("backbone.") for key in build("lenet").state_dict())


@pytest.mark.parametrize(
    ("hyperparameters", "said"),
    [
        ({"name": "resnet19"}, "did you mean 'resnet18'"),
        ({"name": "lenet", "options": {"depth": 3}}, "unknown option 'depth' at model.options of lenet"),
    ],
)
def test_unknown_names(hyperparameters: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(**hyperparameters)


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan")])
def test_deviation_must_divide(deviation: float) -> None:
    with pytest.raises(UserError, match="above 0"):
        models.build(config.Model(name="lenet"), outputs=1, image_size=(28, 28), mean=0.5, deviation=deviation)


def test_a_users_model_must_give_logits() -> None:
    @MODELS.register("test_of_a_wrong_shape")
    def wrong(*, outputs: int, channels: int, image_size: tuple[int, int], options: Any) -> nn.Module:
        """Gives a map in place of logits."""
        return nn.Conv2d(channels, outputs, 3)

    try:
        with pytest.raises(UserError, match=r"gives \[1, 5, 30, 30\] for one image, not logits \[1, 5\]"):
            build("test_of_a_wrong_shape")
    finally:
        del MODELS._entries["test_of_a_wrong_shape"]


def test_pneumonia_cnns_shapes_follow_the_size() -> None:
    network = build("pneumonia_cnn", outputs=2, size=(44, 30), options={"width": 3, "hidden": 7}).backbone
    assert shapes(network, torch.zeros(1, 1, 44, 30)) == [
        [3, 44, 30], [3, 44, 30], [3, 22, 15], [6, 22, 15], [6, 22, 15], [6, 11, 7], [12, 11, 7], [12, 11, 7], [12, 5, 3],
        [180], [7], [7], [7], [2],
    ]  # fmt: skip
    assert models.parameter_count(network) == (9 * 3 + 3) + (27 * 6 + 6) + (54 * 12 + 12) + (180 * 7 + 7) + (7 * 2 + 2)
    with pytest.raises(UserError, match="at least 8 x 8, not 7 x 9"):
        build("pneumonia_cnn", size=(7, 9))


# -- auxiliary heads, appended heads, dropout of maps, frozen backbones ------------------------------------------


def test_googlenets_auxiliary_heads_speak_while_it_trains() -> None:
    model = build("googlenet", size=(64, 64), outputs=3)
    images = gray(2, (64, 64))
    assert [tuple(given.shape) for given in models.every_head(model(images))] == [(2, 3)] * 3
    assert model.auxiliary_weight == 0.3
    assert tuple(model.eval()(images).shape) == (2, 3)
    plain = build("googlenet", size=(64, 64), outputs=3, options={"auxiliary": 0})
    assert plain.auxiliary_weight == 0.0 and plain(images).shape == (2, 3)
    assert not any(key.startswith("aux") for key in plain.backbone.state_dict())


def test_no_images_reach_auxiliary_heads_too() -> None:
    """A rank without rows must answer for every weight, or the others wait for ever."""
    model = build("googlenet", size=(64, 64), outputs=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = models.every_head(model(gray(0, (64, 64))))
    assert [tuple(logits.shape) for logits in given] == [(0, 3)] * 3
    sum(logits.sum() for logits in given).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "lenet", "googlenet"])
def test_an_appended_head_follows_the_one_that_is_there(name: str) -> None:
    images = gray(2, (64, 64))
    model = build(name, size=(64, 64), outputs=3, head="append").eval()
    known = ends.head_name(model.backbone, 1000)
    assert ends.head_name(model.backbone, 3) == f"{known}.appended"
    plain = build(name, size=(64, 64), outputs=1000).eval()
    state = {key: value for key, value in model.state_dict().items() if ".appended." not in key}
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state)
    fresh = model.backbone.get_submodule(f"{known}.appended")
    with torch.no_grad():  # a layer of 1 x 1 before average pooling is one after it
        wanted = nn.functional.linear(plain(images), fresh.weight.flatten(1), fresh.bias)  # type: ignore[union-attr, operator, arg-type]
        assert torch.allclose(model(images), wanted, atol=1e-5)
    heads = len(models.every_head(model.train()(images)))
    assert sum(".appended." in key for key in model.state_dict()) == 2 * heads
    assert list(models.from_description(model.describe()).state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "squeezenet1_1", "mobilenet_v2", "efficientnet_b0", "googlenet", "lenet"]
)
def test_dropout_of_maps_is_whole_maps_and_of_training_alone(name: str) -> None:
    size = (64, 64) if name != "lenet" else (32, 32)
    plain, dropped = build(name, size=size), build(name, size=size, dropout=0.4, dropout_where="maps")
    assert list(plain.state_dict()) == list(dropped.state_dict())
    images = gray(2, size)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), dropped.eval()(images))
    seen: list[Tensor] = []
    for module in dropped.modules():
        if isinstance(module, dropout.ACTIVATIONS):
            module.register_forward_hook(lambda _m, _x, y: seen.append(y.detach().clone()))
    with torch.no_grad():
        dropped.train()(images)
    maps = [y for y in seen if y.ndim == 4 and y.shape[-1] * y.shape[-2] > 1]
    dead = torch.cat([(y == 0).all(dim=3).all(dim=2).flatten() for y in maps])
    assert len(maps) > 1 and dead.float().mean() > 0.3
    state = torch.get_rng_state()
    again = models.from_description(dropped.describe())
    assert torch.equal(state, torch.get_rng_state()) and again.dropout_where == "maps"


@pytest.mark.parametrize("name", ["vit_b_16", "convnext_tiny"])
def test_networks_without_maps_to_drop_say_so(name: str) -> None:
    with pytest.raises(UserError, match="has no activations of feature maps to drop"), models.skeletons():
        build(name, size=(64, 64), dropout=0.2, dropout_where="maps")


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_a_frozen_backbone_holds_weights_and_statistics(name: str) -> None:
    model = build(name, size=(64, 64), outputs=3)
    assert not model.freeze(False) and model.freeze(True) and not model.freeze(True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    given = models.every_head(model(gray(4, (64, 64))))
    sum(logits.square().sum() for logits in given).backward()  # type: ignore[union-attr]
    held = {id(p) for p in model.head_parameters()}
    assert all((p.grad is not None) == (id(p) in held) for p in model.parameters())
    heads = ["backbone.fc", "backbone.aux1", "backbone.aux2"] if name == "googlenet" else ["backbone.fc"]
    outside = [key for key in before if not key.startswith(tuple(heads))]
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in outside)
    assert model.freeze(False)
    with torch.no_grad():
        model(gray(4, (64, 64)))
    assert all(p.requires_grad for p in model.parameters()) and all(module.training for module in model.modules())
    key = "backbone.bn1.running_mean" if name == "resnet18" else "backbone.conv1.bn.running_mean"
    assert not torch.equal(before[key], model.state_dict()[key])


def test_nothing_is_frozen_as_it_was_drawn() -> None:
    with pytest.raises(UserError, match="a backbone without weights has nothing worth holding"):
        build("lenet", freeze_epochs=1)


# -- what is known without weights -------------------------------------------------------------------------------


def test_a_line_for_every_model() -> None:
    lines = {entry.name: summary.listing(entry.name) for entry in MODELS}
    assert {"lenet", "covid_cnn", "pneumonia_cnn", *ZOO} <= set(lines)
    assert all(line.parameters and line.about and line.stems == ("gray", "repeat") for line in lines.values())
    assert lines["resnet18"].parameters == 11_689_512  # as torchvision's documentation has it
    assert lines["lenet"].parameters == models.parameter_count(build("lenet", outputs=14, size=(28, 28)))
    assert lines["lenet"].image_size == (28, 28) and lines["inception_v3"].image_size == (299, 299)
    for name in ("resnet50", "densenet121", "vgg16", "covid_cnn", "pneumonia_cnn", "lenet", "alexnet"):
        assert lines[name].explained_by == family.RELEVANCE
    assert lines["vit_b_16"].explained_by == ("saliency", "integrated_gradients", "gradcam")
    assert "lrp_epsilon" not in lines["googlenet"].explained_by and "gradcam" not in lines["swin_t"].explained_by


def test_layers_of_lenet_are_the_books() -> None:
    found = summary.layers(config.Model(name="lenet"), outputs=10, image_size=(28, 28))
    assert [(layer.kind, layer.shape, layer.trainable) for layer in found] == [
        ("Conv2d", (6, 28, 28), 156), ("ReLU", (6, 28, 28), 0), ("AvgPool2d", (6, 14, 14), 0),
        ("Conv2d", (16, 10, 10), 2416), ("ReLU", (16, 10, 10), 0), ("AvgPool2d", (16, 5, 5), 0),
        ("Flatten", (400,), 0), ("Linear", (120,), 48_120), ("ReLU", (120,), 0), ("Linear", (84,), 10_164), ("ReLU", (84,), 0),
        ("Linear", (10,), 850),
    ]  # fmt: skip


@pytest.mark.parametrize("hyperparameters", [{}, {"head": "append", "stem": "repeat"}])
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "vit_b_16", "convnext_tiny", "swin_t"])
def test_layers_hold_every_weight_once(name: str, hyperparameters: dict[str, Any]) -> None:
    found = summary.layers(config.Model(name=name, **hyperparameters), outputs=5, image_size=(224, 224))
    with models.skeletons():
        whole = build(name, size=(224, 224), **hyperparameters)
    assert sum(layer.trainable for layer in found) == models.parameter_count(whole)
    assert [layer.shape for layer in found if layer.trainable][-1] == (5,)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ZOO)
def test_layers_of_every_model(name: str) -> None:
    size = summary.listing(name).image_size
    found = summary.layers(config.Model(name=name), outputs=5, image_size=size)
    with models.skeletons():
        assert sum(layer.trainable for layer in found) == models.parameter_count(build(name, size=size))


def small_size(name: str) -> tuple[int, int]:
    """A small size that the architecture takes."""
    if name.startswith("maxvit"):
        return (224, 224)
    return (28, 28) if name == "vit_h_14" else (32, 32) if name.startswith("vit_") else (96, 96)


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(k, marks=pytest.mark.zoo) for k in ZOO if k not in SMALL)])
def test_gradients_reach_the_stem(name: str) -> None:
    """With real numbers, from gray images to a first layer of one channel."""
    model = build(name, size=small_size(name))
    if name.startswith("vit_"):  # an untrained one has a head of zeros, which lets nothing through
        nn.init.normal_(model.head_parameters()[0])
    logits, *_ = models.every_head(model(gray(2, small_size(name))))
    logits.square().sum().backward()
    stem = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert logits.shape == (2, 5) and stem.in_channels == 1
    assert stem.weight.grad is not None and stem.weight.grad.abs().sum() > 0
