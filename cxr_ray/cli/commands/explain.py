"""`cxr-ray explain`: maps of a run's images, teaching figures, or an audit for shortcuts. Computing them is in workflows.explain."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from cxr_ray.cli import next_steps
from cxr_ray.cli.parameters import Wait, Words
from cxr_ray.cli.terminal import table
from cxr_ray.errors import UserError, closest
from cxr_ray.runtime.workers import Workers
from cxr_ray.storage.atomic import check_replaceable
from cxr_ray.storage.remote import to_local_path

app = App(name="explain", help_format="markdown")
TERMS = {"relevance": "pixels", "bias": "biases", "clip": "clips", "epsilon": "epsilon"}
"""Terms of a certificate, as they are printed."""
POOL, PADDING = 2, 0
FIGURE_FLAGS = ("kernel", "pool", "stride", "padding")
IGNORED = {
    "audit": ("rows", "class", "figures", "scale", "boxes", *FIGURE_FLAGS),
    "figures": ("methods", "label", "option", "epsilon", "alpha", "beta", "scale", "boxes", "masks"),
    "maps": ("masks", *FIGURE_FLAGS),
}
"""Flags that would change nothing, by what the command makes."""


@app.default
def explain(
    run: str,
    images: str | None = None,
    /,
    *,
    methods: Words = None,
    label: Words = None,
    rows: Words = None,
    class_name: Annotated[str | None, Parameter(name="--class")] = None,
    split: Literal["train", "val", "test"] | None = None,
    limit: int | None = None,
    option: Words = None,
    epsilon: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    scale: float | None = None,
    batch_size: int = 16,
    workers: int = 1,
    address: str | None = None,
    wait: Wait = None,
    figures: Words = None,
    kernel: str | None = None,
    pool: int = POOL,
    stride: int | None = None,
    padding: int = PADDING,
    audit: Annotated[bool, Parameter(negative="")] = False,
    masks: str | None = None,
    boxes: str | None = None,
    out: str | None = None,
    plugins: Words = None,
) -> None:
    """Show which pixels a model's output depends on: maps, certificates, figures, an audit for shortcuts.

    Writes maps.npz, certificates.csv, figures as PNG and explain.html, where method, label and opacity can be switched.

    Parameters
    ----------
    run
        Folder of a run or an ensemble (each member and the mean), or a .safetensors file.
    images
        What to explain instead of the run's store: another store, a picture (PNG, JPEG, DICOM) or a folder of pictures.
    methods
        Explanation methods, such as saliency,gradcam. Default: saliency, lrp_epsilon and lrp_alphabeta, where they are valid.
    label
        Label to explain, several (Edema,Mass), or all. Default: predicted, each image's own highest output.
    rows
        Row numbers of the store, such as 5,9.
    class_name
        Only images that are positive for this label or class.
    split
        Part of the run's store. Default: test if it has rows, else val.
    limit
        Number of images. Default: the first 32 of a store, and all given pictures.
    option
        Option of a method: METHOD.NAME=VALUE, such as lrp_epsilon.epsilon=0.01; NAME=VALUE for every method that has it.
    epsilon
        The same as --option epsilon=VALUE: share of the stabiliser in LRP's epsilon rule.
    alpha
        The same as --option alpha=VALUE: weight of positive contributions in LRP's alpha-beta rule.
    beta
        The same as --option beta=VALUE: weight of negative contributions in LRP's alpha-beta rule.
    scale
        End of the colour scales, such as 0.1 for -0.1 to 0.1. Default: the 99.5th percentile of a method's absolute values.
    batch_size
        Images at once.
    workers
        Processes that share the rows of a store, by Ray Data. Each holds the model.
    address
        Address of a Ray cluster, such as auto, whose nodes see the run and the store. Default: this machine.
    wait
        Minutes to wait while the cluster has no room, before the command gives up. Default: without an end in a Ray job, else 10.
    figures
        Teaching figures of the first image, without maps: filters (learned ones next to Sobel edges), features (feature maps after
        each stage), pooling (the picture after one, two and three poolings, max and mean).
    kernel
        With --figures filters: a kernel of your own, such as '0,1;-1,0', or diagonal.
    pool
        With --figures pooling: side of the window.
    stride
        With --figures pooling: step of the window. Default: its side.
    padding
        With --figures pooling: pixels added on every side.
    audit
        Instead of maps: where the relevance lies, by label, source, view and labels not trained on, compared with other images and
        with random weights. Default: saliency for every label, 200 images of the part.
    masks
        With --audit: lung masks, for the share outside the lungs: the folder of COVID-19 Radiography, or CheXmask's CSV.
    boxes
        Score the methods against annotations of the part: a file (NIH, VinDr, CheXlocalize, image,label,x,y,w,h), or `stored` for those
        of the store. One table of methods and scores, next to the location prior, and a sentence whether to trust the maps.
    out
        Folder to write to; earlier results in it are replaced. Default: explanations/NAME in the run folder; results of other settings
        stay, and NAME-2 and so on are used.
    plugins
        Modules that register the run's model. A run that was trained with plugins needs them named here.
    """
    short = {"epsilon": epsilon, "alpha": alpha, "beta": beta}
    given = [*(option or ()), *(f"{name}={value}" for name, value in short.items() if value is not None)]
    chosen_rows = read_rows(rows)
    check_flags(
        "audit" if audit else "figures" if figures else "maps",
        {**short, "methods": methods, "label": label, "rows": rows, "class": class_name, "option": option, "scale": scale,
         "figures": figures, "kernel": kernel, "pool": None if pool == POOL else pool, "stride": stride,
         "padding": None if padding == PADDING else padding, "masks": masks, "boxes": boxes},
    )  # fmt: skip
    from cxr_ray.workflows import explain as explaining
    from cxr_ray.workflows.result_folders import default_folder

    predictor = explaining.open_predictor(run, plugins=plugins or ())
    labels = read_labels(label, predictor.labels)
    folder = None if out is None else to_local_path(out, "folder of maps")
    if audit:
        names = split_words(methods) or ["saliency"]
        run_audit(
            run, predictor, images, folder, methods=names, target=labels or "all", split=split, limit=limit,
            options=read_options(given, names), batch_size=batch_size, masks=masks,
        )  # fmt: skip
        return
    selection = explaining.image_selection.select
    chosen = selection(predictor, images, rows=chosen_rows, class_name=class_name, split=split, limit=limit)
    if figures:
        folder = folder or default_folder(run, predictor, "figures")
        draw_figures(
            predictor, chosen, split_words(figures), folder, kernel=kernel, pool=pool, stride=stride, padding=padding
        )
        return
    names = list(explaining.chosen_methods(predictor, split_words(methods) or None))
    explainer = explaining.Explainer(predictor, names, target=labels or "predicted", options=read_options(given, names))
    explaining.check_scale(scale)
    settings = explaining.settings_of(explainer, chosen, images)
    folder = folder or free_below(default_folder(run, predictor, chosen.name), settings)
    check_replaceable(folder, marker=explaining.PAGE)
    scores = None if boxes is None else explaining.score_boxes(explainer, chosen, boxes, split, batch_size)
    batches = explaining.map_batches(
        run, explainer, chosen, batch_size, workers=Workers(workers, address, wait), plugins=plugins or ()
    )
    explanation = explaining.write(
        folder,
        explaining.model_name(run, predictor),
        explainer,
        batches,
        scale=scale,
        scores=scores,
        settings=settings,
    )
    print_explanation(explanation)
    if scores is not None:
        head = ["method", *scores.wide.columns]
        table(head, [[name, *row] for name, *row in scores.wide.itertuples()], title="scores against annotations")
        print(scores.verdict)
    print(f"page: {explanation.page}")
    audited = ""
    if predictor.run is not None and len(predictor.members) == 1:
        audited = f", or: {next_steps.with_plugins('explain', predictor.run, '--audit')}"
    next_steps.show(f"open the page in a browser{audited}")


def free_below(default: Path, settings: Mapping[str, Any]) -> Path:
    """The folder for results with these settings; if others are in the default one, the output says so."""
    from cxr_ray.workflows.result_folders import free_folder

    folder = free_folder(default, settings)
    if folder != default:
        print(f"note: {default} has results of other settings, which stay; these are in {folder.name}")
    return folder


def run_audit(run: str, predictor: Any, images: str | None, out: Path | None, **settings: Any) -> None:
    """Audit, print what stands out, and write the page."""
    from cxr_ray.workflows import audit as auditing
    from cxr_ray.workflows.result_folders import default_folder, described

    made_with = described(images, **{name: value for name, value in settings.items() if name != "batch_size"})
    folder = out or free_below(default_folder(run, predictor, "audit"), made_with)
    check_replaceable(folder, marker=auditing.PAGE)
    found = auditing.audit(predictor, images, **settings)
    page = auditing.write(found, folder, made_with)
    if not found.table.empty:
        table(
            ["group", "place", "method", "share", "others", "difference", "95% interval", "random weights", "stands out"],
            [
                [r["group"], r["place"], r["method"], r["share"], r["others"], r["difference"],
                 f"{r['difference_low']:.3f} to {r['difference_high']:.3f}", r["random"], r["stands_out"]]
                for r in found.table.to_dict("records")
                if r["stands_out"] or r["place"] in ("border", "corners")
            ],
            title=f"{found.model}: shares of the relevance",
        )  # fmt: skip
    print(found.verdict)
    print(f"page: {page}")
    seen = ""
    if predictor.run is not None:
        seen = f", or: {next_steps.with_plugins('explain', predictor.run)} to see images"
    next_steps.show(f"open the page in a browser{seen}")


def draw_figures(predictor: Any, chosen: Any, names: Sequence[str], folder: Path, **settings: Any) -> None:
    """Draw the teaching figures of the first chosen image, and print their paths."""
    from cxr_ray.workflows import teaching_figures

    _, grays = next(iter(chosen.batches(1)))
    for path in teaching_figures.write(teaching_figures.draw(predictor, grays[0], names, **settings), folder):
        print(f"figure: {path}")
    next_steps.show("the same figures of another image: --rows N, or a picture as the second word")


def check_flags(made: str, given: Mapping[str, Any]) -> None:
    """Raises `UserError` for the first flag of `given` (None: not given) that would change nothing."""
    for name in IGNORED[made]:
        if given[name] is None:
            continue
        if made == "maps":
            raise UserError(
                f"--{name} belongs to {'--audit' if name == 'masks' else '--figures'}: add that, or remove --{name}"
            )
        does = "compares groups of images of a part" if made == "audit" else "draws teaching figures without maps"
        raise UserError(f"--{made} {does}; remove --{name}")


def read_labels(words: Sequence[str] | None, known: Sequence[str]) -> list[str] | None:
    """`["Edema,Mass"]` as ["Edema", "Mass"]; a label that has a comma itself stays whole."""
    return (
        None
        if words is None
        else [part for word in words for part in ([word] if word in known else split_words([word]))]
    )


def split_words(words: Iterable[str] | None) -> list[str]:
    """`["a,b", "c"]` as `["a", "b", "c"]`."""
    return [part.strip() for word in words or () for part in word.split(",") if part.strip()]


def read_rows(words: Sequence[str] | None) -> list[int] | None:
    """`["5,9"]` as [5, 9]. Raises `UserError`."""
    if words is None:
        return None
    parts = split_words(words)
    if not parts or not all(part.isdigit() for part in parts):
        raise UserError(f"cannot read --rows {' '.join(words)}; give row numbers of the store, such as --rows 5,9")
    return [int(part) for part in parts]


def read_options(words: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`["lrp_epsilon.epsilon=0.01"]` as options by method. Values are JSON, or text. Raises `UserError` for a name that no chosen
    method has."""
    from cxr_ray.explanation.methods import METHODS

    out: dict[str, dict[str, Any]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        method, dot, name = key.rpartition(".")
        if not equals or not name:
            raise UserError(f"cannot read --option {word}; write METHOD.NAME=VALUE, such as lrp_epsilon.epsilon=0.01")
        if dot and method not in methods:
            raise UserError(
                f"--option {word}: {method} is not among the methods {', '.join(methods)}{closest(method, methods)}"
            )
        takers = [method] if dot else [m for m in methods if name in METHODS[m].options.model_fields]
        if not takers:
            known = sorted({field for m in methods for field in METHODS[m].options.model_fields})
            raise UserError(
                f"no method of {', '.join(methods)} has an option {name!r}{closest(name, known)} known: {', '.join(known) or 'none'}"
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        for taker in takers:
            out.setdefault(taker, {})[name] = value
    return out


def print_explanation(explanation: Any) -> None:
    """Print the first maps' logits and total relevance, and how many certificates hold."""
    shown = explanation.head(12)
    signed = [method for method in explanation.maps if explanation.scales[method].signed]
    table(
        ["row", "label", "probability", "logit", *(f"sum of {method}" for method in signed)],
        [
            [str(r["row"]), r["label"], r["probability"], r["logit"], *(r[m] for m in signed)]
            for r in shown.to_dict("records")
        ],
        title=f"{explanation.model}: {len(explanation)} map{'s' if len(explanation) != 1 else ''} by {', '.join(explanation.maps)}"
        + (f", the first {len(shown)}" if len(explanation) > len(shown) else ""),
    )
    for method, of in explanation.division.to_dict("index").items():
        terms = " + ".join(f"{of[term]:.3f} ({name})" for term, name in TERMS.items())
        print(
            f"{method}: {of['holds']} of {of['maps']} maps add up; mean logit {of['logit']:.3f} = {terms}".replace(
                "+ -", "- "
            )
        )
    for warning in explanation.warnings:
        print(f"warning: {warning}")
    if len(explanation.failed):
        print("warning: maps that do not add up are marked in the figures and on the page; do not read them")
