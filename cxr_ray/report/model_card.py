"""The model card of an exported run in Markdown: its data, parts, results, operating points and limits, from the run's own files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxr_ray.data.plan import PARTS
from cxr_ray.metrics import MAIN_METRICS
from cxr_ray.metrics.titles import NAMES
from cxr_ray.report.render import interval, number, thousands
from cxr_ray.runs import Run

ASPECTS = {
    "squash": "whatever its aspect ratio",
    "pad": "with black borders that preserve its aspect ratio",
    "center_crop": "after its centre of that aspect ratio is cut out",
}
LOADING = {
    "onnx": """import onnxruntime
session = onnxruntime.InferenceSession("{name}")
probabilities = session.run(None, {{"images": images}})[0]
about = session.get_modelmeta().custom_metadata_map  # labels, thresholds, ...: JSON""",
    "pt2": """import torch
about = {{"metadata.json": ""}}
program = torch.export.load("{name}", extra_files=about).module()
probabilities = program(torch.from_numpy(images))  # about["metadata.json"]: labels, thresholds, ...""",
}
TRUST = {
    "onnx": "Opening an ONNX file runs no code of the file's.",
    "pt2": "torch promises less for a pt2: opening one may run code that is in it. Open only files that you trust; sha256 above.",
}


@dataclass(frozen=True)
class ExportedFile:
    """The file that a card is of."""

    name: str
    format: str
    bytes: int
    sha256: str
    difference: float
    """Largest difference of a probability from the run's."""
    checked_on: str


def markdown(
    run: Run, about: Mapping[str, Any], *, file: ExportedFile, architectures: Sequence[Mapping[str, Any]]
) -> str:
    """The card of an export of `run`. `about` is the metadata of the file, `architectures` describe its models."""
    sections = [
        f"# {run.path.name}\n\nA classifier of chest X-rays, exported from cxr_ray. **For research and teaching only. Not a medical device:** it was "
        "not tested for diagnosis, and no output may guide the care of a patient.",
        _file(about, file),
        _decoding(about),
        _model(run, about, architectures),
        _data(run),
        _operating_points(run, about),
        *_results(run),
        _limits(run, about),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _file(about: Mapping[str, Any], file: ExportedFile) -> str:
    _, height, width = about["input"]["shape"]
    kind = (
        "uint8, black 0 and white 255"
        if about["input"]["dtype"] == "uint8"
        else "float32 from 0 (black) to 255 (white)"
    )
    outputs = ", ".join(_text(label) for label in about["labels"])
    sums = "; they sum to 1" if about["task"] == "multiclass" else ""
    return f"""## File

| | |
|---|---|
| file | {file.name}, {thousands(file.bytes)} bytes |
| sha256 | {file.sha256} |
| sha256 of the run's weights | {", ".join(about["weights_sha256"])} |
| versions | {", ".join(f"{name} {version}" for name, version in about["versions"].items())} |
| input | `images` [N, {height}, {width}], {kind}; any N from 1, the size is fixed |
| output | `probabilities` float32 [N, {len(about["labels"])}]: {outputs}{sums} |
| compared with the run | in fp32, on {file.checked_on}: largest difference {file.difference:.1e} |

```python
{LOADING[file.format].format(name=file.name)}
```

{TRUST[file.format]}"""


def _decoding(about: Mapping[str, Any]) -> str:
    _, height, width = about["input"]["shape"]
    form = about["decoding"]
    resized = f"It is resized to {height} x {width} pixels, {ASPECTS[form['aspect']] if form else 'as for the store of the training'}"
    at_16 = " at 16 bits per pixel and divided by 257" if form and form["depth"] == 16 else ""
    sizes = ", ".join(f"{h} x {w}" for h, w in (one["image_size"] for one in about["preprocessing"]))
    return f"""## Before the program: from a file to its input

The program starts with gray pixels. What comes before is outside, and has to be as it was for the training:

- A DICOM: modality LUT, then the VOI LUT or window, MONOCHROME1 inverted, padding black (PS3.3); one frame.
- Other files: rotated by EXIF, colour to gray by ITU-R 601 luma, transparent pixels on black; more than 8 bits per sample scaled from their least to
  their largest value.
- {resized}, with a bilinear filter that widens its support when it shrinks (Pillow's `BILINEAR`){at_16}. Other filters change probabilities.

Within cxr_ray `load_predictor` does all of this. The program itself resizes to the network's input ({sizes} pixels, bilinear, antialiased),
scales to 0 to 1 and normalises."""


def _model(run: Run, about: Mapping[str, Any], architectures: Sequence[Mapping[str, Any]]) -> str:
    config, info = run.config, run.info
    best = info.get("kept") or info.get("best") or {}
    rows = [
        ("architecture", run.architecture),
        (
            "features",
            f"pooled, of {embedder['model']}; sha256 of its weights without the head: {embedder['weights']}"
            if (embedder := info.get("embedder"))
            else None,
        ),
        ("weights", thousands(sum(int(one["parameters"]) for one in architectures))),
        ("task", about["task"]),
        ("first weights", config.model.weights if config.model.weights in ("none", "imagenet") else "from a file"),
        ("loss, optimiser", f"{config.loss.name}, {config.optim.name}, learning rate {config.optim.lr:g}"),
        ("epochs, batch size, seed", f"{config.train.epochs}, {config.train.batch_size}, {config.seed}"),
        ("selected epoch", best.get("epoch")),
        (
            "precision of the training",
            f"{info['precision']}, as for the results below; this file is fp32" if info.get("precision") else None,
        ),
    ]
    members = info.get("members")
    note = f"\n\nThe mean probability of {len(members)} models; settings are the first one's." if members else ""
    return f"## Model\n\n{_table(('', ''), ((k, v) for k, v in rows if v is not None))}{note}"


def _data(run: Run) -> str:
    info = run.info
    store, counted = info["store"], info.get("prevalence", {})
    parts = {part: counted[part] for part in PARTS if part in counted}
    lines = [
        f"## Data\n\n{store['source']}, {thousands(store['rows'])} images in the store (fingerprint {store['fingerprint']})."
    ]
    if parts:
        labels = info["labels"]
        lines.append("Positives of the rows with a known label, by part:")
        head = (
            "",
            *(f"{part} ({_size(of)})" for part, of in parts.items()),
        )
        counts = ([label, *(_share(of["labels"].get(label)) for of in parts.values())] for label in labels)
        lines.append(_table(head, counts))
    if store.get("notes"):
        lines.append("\n".join(f"- {_text(note)}" for note in store["notes"]))
    lines.append(
        "Labels are the dataset's own. Public ones are mostly extracted from reports by software, and some are wrong."
    )
    return "\n\n".join(lines)


def _size(of: Mapping[str, Any]) -> str:
    patients = of.get("patients")  # unknown in some datasets
    return f"{thousands(of['rows'])} images" + (f" of {thousands(patients)} patients" if patients else "")


def _share(count: Mapping[str, int] | None) -> str:
    return f"{thousands(count['positives'])} of {thousands(count['known'])}" if count and count["known"] else "–"


def _operating_points(run: Run, about: Mapping[str, Any]) -> str:
    file = run.path / "thresholds.json"
    if not file.exists():
        return "## Operating points\n\nNone: the run was not evaluated (`cxr-ray evaluate`). The program gives probabilities."

    body = json.loads(file.read_text(encoding="utf-8"))
    measured = body.get("measured_on")
    where = f" Recall and precision are those on val ({thousands(measured['rows'])} images)." if measured else ""
    decision = (
        "The decision of classes is the largest probability; a threshold is of a class against the rest."
        if about["task"] == "multiclass"
        else "Positive is a probability of at least the threshold."
    )
    rows = (
        [label, number(p["threshold"]), number(p.get("recall")), number(p.get("precision")), p["chosen"]]
        for label, p in body["labels"].items()
    )
    return f"## Operating points\n\nRule: {body['rule']}. {decision}{where}\n\n" + _table(
        ("label", "threshold", "recall", "precision", "chosen"), rows
    )


def _results(run: Run) -> list[str]:
    part, _ = run.headline()
    if not part:
        return ["## Results\n\nNone: the run was not evaluated (`cxr-ray evaluate`)."]
    found = run.evaluation(part)
    shown = [*MAIN_METRICS, *(name for name in ("specificity", "ap") if name not in MAIN_METRICS)]
    values = {(v["metric"], v["label"]): v for v in found["values"]}
    labels = [*found["labels"], *(["mean"] if len(found["labels"]) > 1 else [])]
    rows = ([label, *(_value(values.get((metric, label))) for metric in shown)] for label in labels)
    of = found["interval"]
    level = f"Intervals of 95% by {of['by']}, {thousands(of['resamples'])} resamples; " if of["resamples"] else ""
    looks = (
        f" Evaluations of test so far: {run.info.get('test_looks', 0)}."
        if part == "test"
        else " Val also selected the epoch."
    )
    results = f"## Results on {part}\n\n{_size(found)}. {level}a dash is undefined.{looks}\n\n" + _table(
        ("label", *(NAMES.get(name, name) for name in shown)), rows
    )
    if not found.get("groups"):
        return [results, "## Subgroups\n\nThe data have no sex, age, view or source, so no group was evaluated."]
    groups = (
        [
            feature["feature"],
            group["category"],
            thousands(group["rows"]),
            *(_value(_mean(group["values"], metric, found["labels"])) for metric in MAIN_METRICS),
        ]
        for feature in found["groups"]
        for group in feature["groups"]
    )
    head = ("feature", "group", "images", *(NAMES.get(name, name) for name in MAIN_METRICS))
    return [
        results,
        f"## Subgroups on {part}\n\nMeans over the labels, for which a group has both outcomes.\n\n{_table(head, groups)}",
    ]


def _mean(values: Sequence[Mapping[str, Any]], metric: str, labels: Sequence[str]) -> Mapping[str, Any] | None:
    wanted = "mean" if len(labels) > 1 else labels[0]
    return next((v for v in values if (v["metric"], v["label"]) == (metric, wanted)), None)


def _value(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    between = interval(dict(row))
    return number(row["value"]) + (f" ({between})" if between else "")


def _limits(run: Run, about: Mapping[str, Any]) -> str:
    points = [
        "It detects nothing but " + ", ".join(_text(label) for label in about["labels"]) + ".",
        "It is valid for images like those it was evaluated on: these hospitals, machines and patients.",
        "It gives a probability for any picture. cxr_ray's check for unusual images is not part of the program.",
        "Probabilities are not calibrated: the run's calibrators (calibration.json) are not part of the program.",
        *run.info.get("warnings", []),
    ]
    return "## Limits\n\n" + "\n".join(f"- {_text(point)}" for point in points)


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table of Markdown."""
    cells = [[_text(cell) for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def _text(value: object) -> str:
    """Text that Markdown shows as it is, in one line."""
    text = " ".join(str(value).split())
    for mark in ("\\", "|", "<", "*", "`", "["):
        text = text.replace(mark, f"\\{mark}")
    return text
