"""Label columns of datasets in which each image belongs to one class. Where the class is found is up to the source."""
# N images

import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from cxr_ray.errors import UserError, listed, quoted, unknown
from cxr_ray.labels import NEGATIVE, POSITIVE, Task, safe_name

UNREMARKABLE = {"normal", "no finding", "no findings", "nofinding", "nofindings", "negative", "healthy"}
MOST_CLASSES = 100
"""More are no classes: folders of patients, or a column of sentences."""


def is_unremarkable(name: str) -> bool:
    """Whether a label means the absence of findings: normal, no finding(s), negative, healthy."""
    return re.sub(r"[\s_.-]+", " ", name).strip().casefold() in UNREMARKABLE


def other_class(classes: Iterable[str], labels: Collection[str]) -> str | None:
    """The label name of the one of two `classes` that has no label column; None if there are more classes."""
    names = {safe_name(c) for c in classes}
    return next(iter(names - set(labels))) if len(names) == 2 and len(labels) == 1 else None


def class_columns(
    class_N: Sequence[str], classes: Sequence[str], *, positive: str | None = None
) -> tuple[Task, dict[str, np.ndarray]]:
    """The task and the label columns [N] of images that each belong to one class.

    More than two classes: multiclass, one column per class, sorted. Two classes: binary, ONE column, named after
    `positive`, by default after the class that is not called normal, no finding(s), negative or healthy. Raises
    `UserError` if the names do not decide which, and for over `MOST_CLASSES`."""
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"{len(classes):,} classes ({listed(sorted(classes))}) are too many, at most {MOST_CLASSES}: name the column or the folder "
            "whose folders are the classes"
        )
    by_label = {safe_name(c): c for c in classes}
    if len(by_label) < len(classes):
        raise UserError(
            f"two classes have the same label name: {listed(sorted(classes), most=MOST_CLASSES)} "
            "(slashes and dots become _, line breaks a space); rename one of them"
        )
    if positive is not None and positive not in classes:
        raise unknown("class", positive, classes, where=" for --positive")
    if positive is not None and len(classes) > 2:
        raise UserError(
            f"--positive is for two classes; there are {len(classes)}: {listed(sorted(classes))}; remove --positive"
        )
    task: Task = "multiclass"
    columns = sorted(by_label)
    if len(classes) == 2:
        task = "binary"
        if positive is None:
            findings = [c for c in sorted(classes) if not is_unremarkable(c)]
            if len(findings) != 1:
                which = "neither" if findings else "each"
                raise UserError(
                    f"which class is the finding? {which} of {' and '.join(map(quoted, sorted(classes)))} is called normal, "
                    "no finding, negative or healthy; choose it with --positive NAME"
                )
            positive = findings[0]
        columns = [safe_name(positive)]
    names_N = np.asarray(class_N, dtype=object)
    return task, {c: np.where(names_N == by_label[c], np.float32(POSITIVE), np.float32(NEGATIVE)) for c in columns}
