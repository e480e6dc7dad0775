"""Which source a folder is probably for, by the names of its files: a hint in the errors of other sources."""

from cxr_ray.storage.remote import AnyPath

MARKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "chexpert": (("train/patient*",), ("valid/patient*",), ("CheXpert-v1.0 batch *",), ("patient*/study*",)),
    "nih": (("Data_Entry_2017*.csv",),),
    "mimic_cxr": (("mimic-cxr-*-metadata.csv*",),),
    "padchest": (("*labels_160K*.csv*",),),
    "vindr": (("annotations/image_labels_*.csv",), ("image_labels_*.csv",)),
    "covid_radiography": (("COVID.metadata.xlsx",), ("COVID/images", "Viral Pneumonia/images")),
    "phantom": (("phantom.csv",),),
    "covid_chestxray": (("metadata.csv", "images"),),
}
"""Patterns of files or folders below the root that only this source's dataset has: all of one tuple."""


def likely_source(root: AnyPath) -> str | None:
    """The source whose dataset the folder `root` looks like, if any."""
    return next(
        (name for name, marks in MARKS.items() if any(all(_has(root, pattern) for pattern in mark) for mark in marks)),
        None,
    )


def _has(root: AnyPath, pattern: str) -> bool:
    first, _, rest = pattern.partition("/")
    return any(not rest or (path.is_dir() and _has(path, rest)) for path in root.glob(first))
