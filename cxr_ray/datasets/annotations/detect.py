"""Which published format a file of annotations has, by its header."""

import gzip

from cxr_ray.errors import UserError
from cxr_ray.storage.remote import AnyPath

COLUMNS = {
    "nih": ("Image Index", "Finding Label", "Bbox [x"),
    "vindr": ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max"),
    "chexmask": ("Left Lung", "Right Lung", "Heart", "Height", "Width"),
    "phantom": ("image", "label", "x", "y", "w", "h"),
}
"""Columns by which each table is recognised; the most special first."""


def format_of(path: AnyPath) -> str:
    """The name of the reader for a file or folder. Raises `UserError` if none is known."""
    if path.is_dir():
        return "covid_radiography"
    if path.suffix.lower() == ".json":
        return "chexlocalize"
    with path.open("rb") as file:
        start = file.read(1 << 16)
        if start.startswith(b"\x1f\x8b"):
            file.seek(0)
            with gzip.open(file) as unpacked:
                start = unpacked.read(1 << 16)
    line = start.decode("utf-8-sig", errors="replace").splitlines()[0] if start else ""
    cells = [cell.strip().strip('"') for cell in line.split(",")]
    for name, columns in COLUMNS.items():
        if all(column in cells for column in columns):
            return name
    known = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in COLUMNS.items())
    raise UserError(
        f"{path} has the columns {', '.join(cells[:12])}, which are of no known annotations ({known}); name the format, or rename columns"
    )
