"""`cxr-ray models`: lists the models, or the options and layers of one. Counting them is in models.summary."""

from typing import Literal

from cyclopts import App

from cxr_ray.cli import flags, next_steps
from cxr_ray.cli.terminal import bullets, table
from cxr_ray.errors import UserError

app = App(name="models", help_format="markdown")


@app.default
def models(
    name: str | None = None,
    /,
    *,
    size: int | None = None,
    outputs: int = 14,
    stem: Literal["gray", "repeat"] = "gray",
    head: Literal["replace", "append"] = "replace",
) -> None:
    """List the models that can be trained, and their options.

    Parameters
    ----------
    name
        Show this model: its parameters and options.
    size
        With NAME: also list all layers, with their output shapes for square images of this size in pixels and their trainable weights.
    outputs
        Number of labels or classes of NAME.
    stem
        Stem of NAME: one gray channel, or three equal channels.
    head
        Head of NAME: replaces the 1,000-class layer, or follows it.
    """
    from cxr_ray import config
    from cxr_ray.models import summary
    from cxr_ray.registry import MODELS

    if name is None:
        if size is not None:
            raise UserError("--size lists the layers of one model: name it, as in cxr-ray models resnet18 --size 224")
        table(
            ["model", "parameters", "pixels", "stems", "explained by", "description"],
            [
                [m.name, m.parameters, _pixels(m.image_size), ", ".join(m.stems), _short(m.explained_by), m.about]
                for m in (summary.listing(entry.name) for entry in MODELS)
            ],
        )
        print(
            "parameters: of torchvision models with a colour stem and 1,000 classes, of the others with a gray stem and 14 outputs"
        )
        print("explained by: g gradient methods and occlusion, c Grad-CAM, r relevance (methods lrp_...)")
        next_steps.show("cxr-ray models NAME, or cxr-ray train --model NAME --store STORE")
        return
    line, chosen = summary.listing(name), config.Model(name=name, stem=stem, head=head)
    side = (size, size) if size is not None else line.image_size
    layers = summary.layers(chosen, outputs=outputs, image_size=side)
    if size is not None:
        table(
            ["layer", "kind", "output shape", "trainable"],
            [[layer.name, layer.kind, " x ".join(map(str, layer.shape)), layer.trainable] for layer in layers],
        )
    print(f"{line.name}: {line.about}")
    print(
        f"parameters: {sum(layer.trainable for layer in layers):,} with {outputs} outputs, stem {stem}, head {head}, "
        f"images of {_pixels(side)} px; its usual size is {_pixels(line.image_size)} px"
    )
    print(f"stems: {', '.join(line.stems)}; explained by {', '.join(line.explained_by)}")
    bullets("options, each a flag --model.options.NAME of train", flags.help_lines(MODELS[name].options))
    if size is None:
        next_steps.show(f"cxr-ray models {line.name} --size {line.image_size[0]}, or")
    next_steps.show(f"cxr-ray train --model {line.name} --store STORE")


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _short(methods: tuple[str, ...]) -> str:
    """One letter per group of explanation methods."""
    letters = {"g": "saliency", "c": "gradcam", "r": "lrp_epsilon"}
    return " ".join(letter for letter, method in letters.items() if method in methods)
