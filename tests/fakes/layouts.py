"""A fake dataset for every source of the package, for tests of all sources."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxr_ray.datasets.phantom import generate
from tests.fakes import (
    chexpert,
    covid_chestxray,
    covid_radiography,
    dicom_folder,
    image_folder,
    mimic_cxr,
    nih,
    padchest,
    table,
    vindr,
)

LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "image_folder": lambda root: image_folder.write(root, {"normal": 3, "Covid": 4}, splits=("Train", "Val")),
    "covid_radiography": covid_radiography.write,
    "chexpert": chexpert.write,
    "phantom": lambda root: generate.write(root, patients=3, size=32),
    "nih": nih.write,
    "covid_chestxray": covid_chestxray.write,
    "mimic_cxr": mimic_cxr.write,
    "vindr": vindr.write,
    "padchest": padchest.write,
    "table": table.write,
    "dicom_folder": dicom_folder.write,
}
OPTIONS: dict[str, dict[str, Any]] = {"table": table.OPTIONS, "dicom_folder": {"labels": ["Edema", "Mass"]}}
"""Required options of `datasets.load`, by source."""
