"""`cxr-ray models`: what can be trained."""

from cyclopts import App

from cxr_ray.verbs import flags
from cxr_ray.verbs.show import bullets, table

app = App(name="models", help_format="markdown")


@app.default
def models(name: str | None = None, /) -> None:
    """The models that can be trained, and their options.

    Parameters
    ----------
    name
        One model: its parameters and options.
    """
    from cxr_ray import models as zoo
    from cxr_ray.registry import MODELS

    if name is None:
        lines = [(entry, zoo.natural_size(entry)) for entry in MODELS]
        table(
            ["model", "pixels", "what it is", "options"],
            [
                [e.name, f"{height} x {width}", e.about, ", ".join(e.options.model_fields) or "-"]
                for e, (height, width) in lines
            ],
        )
        print("next: cxr-ray models NAME, or cxr-ray train --model.name NAME --data.shards SHARDS")
        return
    entry, line = MODELS[name], zoo.listing(name)
    height, width = line.image_size
    print(f"{line.name}: {line.about}")
    print(
        f"parameters: {line.parameters:,} with 14 outputs and a gray stem; usual size {height} x {width} px; stems {', '.join(line.stems)}"
    )
    bullets("options, each a flag --model.options.NAME of train", flags.help_lines(entry.options))
    print(f"next: cxr-ray train --model.name {line.name} --data.shards SHARDS")
