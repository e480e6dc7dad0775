"""`cxr-ray export`: writes a run as ONNX or a program of torch, with its model card. The work is in workflows.export."""

import shlex
from pathlib import Path
from typing import Literal

from cyclopts import App

from cxr_ray.cli import next_steps
from cxr_ray.cli.parameters import Words
from cxr_ray.config.image_sizes import read_size

app = App(name="export", help_format="markdown")


@app.default
def export(
    run: Path,
    out: str,
    /,
    *,
    format: Literal["pt2", "onnx"] | None = None,
    size: str | None = None,
    plugins: Words = None,
) -> None:
    """Write a run as one ONNX or pt2 file that needs no cxr_ray, with a model card.

    The file takes gray images uint8 [N, H, W] and gives probabilities [N, labels], for any N; an ensemble is the mean of its members.
    The model's preprocessing is part of it, with labels, thresholds and versions as metadata. Decoding files, the window of a DICOM
    and resizing to H x W stay outside; the model card OUT.md says how. The file is compared with the run and not written if a
    probability differs by more than 1e-4. A run itself holds safetensors. Opening safetensors and ONNX runs no code of the file's. torch
    promises less for pt2: open only files that you trust.

    Examples: `cxr-ray export runs/first first.onnx`, `cxr-ray export runs/first first.pt2 --size 512`.

    Parameters
    ----------
    run
        Folder of the run or the ensemble.
    out
        File to write. Its ending, .onnx or .pt2, is the format; OUT.md is the model card.
    format
        Format, if OUT has no such ending: it is added. ONNX needs the extra export.
    size
        Size of the input in pixels, 512 or HEIGHTxWIDTH such as 512x400. Default: that of the store's images. Larger ones are resized in the file.
    plugins
        Modules that register the run's model. A run that was trained with plugins needs them named here.
    """
    from cxr_ray import runs

    opened = runs.load(run)  # reports a wrong path before torch is imported, which takes seconds
    wanted = None if size is None else read_size(size, name="--size")
    from cxr_ray.workflows.export import export as write

    exported = write(opened, out, format=format, size=wanted, plugins=plugins or ())
    print(f"compared with the run on {exported.checked_on}: largest difference {exported.difference:.1e}")
    print(f"model: {exported.path}")
    print(f"model card: {exported.card}")
    if exported.format == "pt2":
        print("note: opening a pt2 may run code that is in it: open only files that you trust")
    next_steps.show(f"read the model card, {shlex.quote(str(exported.card))}")
