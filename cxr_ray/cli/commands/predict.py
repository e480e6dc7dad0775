"""`cxr-ray predict`: predictions of a run for an archive, as one table. Computing them is in workflows.predict."""

import shlex
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from cxr_ray.cli import next_steps
from cxr_ray.cli.parameters import Wait, Words
from cxr_ray.cli.terminal import table
from cxr_ray.cli.thresholds import check_thresholds, read_thresholds

app = App(name="predict", help_format="markdown")
SHOWN = 20
"""Labels of the printed table."""


@app.default
def predict(
    run: str,
    inputs: str,
    out: str,
    /,
    *,
    part: Literal["train", "val", "test"] | None = None,
    image: str | None = None,
    root: str | None = None,
    thresholds: Words = None,
    by: Literal["image", "study"] = "image",
    combine: Literal["max", "mean"] = "max",
    ids: Annotated[bool, Parameter(negative="")] = False,
    hash_key: str | None = None,
    sr: str | None = None,
    batch_size: int = 64,
    workers: int = 1,
    address: str | None = None,
    wait: Wait = None,
    plugins: Words = None,
) -> None:
    """Predict every image of an archive with a run, and write one table; for DICOMs also structured reports.

    Each input is a row: probabilities, calibrated ones where the run has a calibrator, decisions, or why it was refused. Images are
    prepared as those of the run's store. Interrupted, the same command goes on where it stopped. Examples:

        cxr-ray predict runs/nih archive/ predictions.parquet
        cxr-ray predict runs/nih s3://bucket/films predictions.csv --thresholds recall=0.9
        cxr-ray predict runs/nih films.csv predictions.parquet --image path --root archive/
        cxr-ray predict runs/nih dicoms/ predictions.parquet --sr reports/ --by study --ids
        cxr-ray predict runs/nih shards predictions.parquet --part test

    Parameters
    ----------
    run
        Folder of a run or an ensemble, or a .safetensors file.
    inputs
        A store, a folder of images at any depth (PNG, JPEG, DICOM and more), a table (CSV, TSV, Parquet) with a column of paths, or one
        image. Local or a URL (s3://, gs://, abfs://).
    out
        The table: NAME.parquet or NAME.csv. Unfinished parts are in OUT.parts.
    part
        Of the run's own store: only the rows of this part.
    image
        Column of the paths in a table. Default: image.
    root
        Folder that the paths of a table are below. Default: the table's own folder.
    thresholds
        Operating points, instead of those of the run's evaluation: one number, LABEL=NUMBER ..., or a rule that selects them on val:
        youden, f1, recall=0.9, specificity=0.9.
    by
        One row per image, or one per study. Studies are those of the store, the table (columns patient and study) or the DICOMs.
    combine
        How to combine the probabilities of a study's images, as in `evaluate --by study`.
    ids
        Add the columns patient and study: as the store has them; of tables and DICOMs as keyed hashes.
    hash_key
        File with the secret key of the hashes. Default: ~/.config/cxr_ray/hash.key, as for ingest; it is created if it does not exist.
    sr
        Folder for a structured report (DICOM SR, TID 1500) of each DICOM, in its study. Reports contain patient data, as DICOMs do.
    batch_size
        Images at once.
    workers
        Processes that hold the model, fed by Ray Data.
    address
        Address of a Ray cluster, such as auto, whose nodes see the run and the inputs. Default: this machine.
    wait
        Minutes to wait while the cluster has no room, before the command gives up. Default: without an end in a Ray job, else 10.
    plugins
        Modules that register the run's model. A run that was trained with plugins needs them named here.
    """
    rule = read_thresholds(thresholds)
    if rule is not None and not run.endswith(".safetensors"):
        from cxr_ray import runs

        check_thresholds(rule, runs.load(run))  # before torch is imported, which takes seconds
    from cxr_ray.workflows import predict as predicting

    found = predicting.predict(
        run, inputs, out, part=part, image=image, root=root, thresholds=rule, by=by, combine=combine, ids=ids,
        hash_key=hash_key, sr=sr, batch_size=batch_size, workers=workers, address=address, wait=wait, plugins=plugins or (),
    )  # fmt: skip
    print_prediction(found)
    next_steps.show(
        f"cxr_ray.predict in Python gives the same table, or: cxr-ray explain {shlex.quote(run)} IMAGE for one image"
    )


def print_prediction(found: Any) -> None:
    """Print how many rows each label is positive in, the reasons of refused ones, and the path of the table."""
    about, classes = found.metadata, found.metadata["thresholds"] is None
    rows = [
        [label, f"{found.positives[label]:,}", *([] if classes else [about["thresholds"][label]])]
        for label in about["labels"]
    ]
    print(f"{about['run']}: {found.rows:,} rows by {about['by']}, {found.refused:,} refused")
    table(["label", "positive", *([] if classes else ["threshold"])], rows[:SHOWN])
    if len(rows) > SHOWN:
        print(f"{len(rows) - SHOWN} more labels are in the table")
    for reason, count in about["reasons"].items():
        print(f"refused: {count:,} {reason}")
    print(f"predictions: {found.path}")
