"""The output of a prediction: one table in the order of the inputs, as Parquet or CSV, with what it was made by. Runs no model."""
# N inputs, n of a part, L labels

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxr_ray.data.store_format import MANIFEST
from cxr_ray.datasets.folders import DICOM_EXTENSIONS, EXTENSIONS
from cxr_ray.errors import UserError
from cxr_ray.inference.decisions import Decisions
from cxr_ray.inference.input_list import InputList, public_name
from cxr_ray.inference.prediction_parts import PredictionParts, difference
from cxr_ray.metrics import studies
from cxr_ray.storage.atomic import write_atomic
from cxr_ray.storage.remote import to_local_path

FORMAT = "cxr_ray predictions 1"
KEY = b"cxr_ray"
"""Of the metadata in the Parquet file."""
SUFFIXES = (".parquet", ".csv")
IDENTIFIERS = ("patient", "study")
NO_STUDIES = "the images have no studies, so they cannot be combined by study; leave --by out"


class NoneUsable(UserError):
    """No input can be used, or none by study."""


@dataclass(frozen=True)
class Shape:
    """Which rows and columns an output has."""

    decisions: Decisions
    is_store: bool
    """Inputs are rows of a store, and no files."""
    ids: bool = False
    """With the columns `patient` and `study`."""
    by_study: studies.Method | None = None
    """One row per study; how its probabilities are combined."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the output, in order."""
        labels = self.decisions.labels
        calibrated = labels if self.decisions.calibrate is not None else ()
        return pa.schema(
            [
                pa.field("row", pa.int64()) if self.is_store else pa.field("image", pa.string()),
                *(pa.field(name, pa.string()) for name in IDENTIFIERS if self.ids),
                *([pa.field("images", pa.int64())] if self.by_study else []),
                *(pa.field(f"prob/{label}", pa.float32()) for label in labels),
                *(pa.field(f"calibrated/{label}", pa.float32()) for label in calibrated),
                *(pa.field(f"decision/{label}", pa.bool_()) for label in labels),
                pa.field("refused", pa.string()),
                pa.field("unusual", pa.bool_()),
                pa.field("unusual_score", pa.float32()),
            ]
        )


def check_output(out: Any, settings: Mapping[str, Any]) -> tuple[Path, bool]:
    """The path of an output, and whether it is there already, of the same inputs with the same settings.

    Raises `UserError` if another file is there, for another ending, and if the folder cannot be written to."""
    path = to_local_path(out, "table of predictions").absolute()
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"the output is a table, so its name ends with {' or '.join(SUFFIXES)}, got {path.name}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")
    if (path.parent / MANIFEST).is_file():
        raise UserError(
            f"{path.parent} is a store, which lists its files, and {path.name} is none; give another folder"
        )
    if not path.exists():
        _check_sidecar(path)
        return path, False
    try:
        found = read_metadata(path)
    except UserError:
        raise UserError(f"{path} exists and was not written by predict; give another output, or delete it") from None
    if what := difference(settings, found.get("settings", {})):
        raise UserError(f"{path} exists, {what}; give another output, or delete it to predict again")
    return path, True


def _check_sidecar(path: Path) -> None:
    """Raises `UserError` if another file is where the metadata of a CSV will be."""
    if path.suffix.lower() == ".csv" and sidecar(path).exists():
        try:
            read_metadata(path)
        except UserError:
            raise UserError(
                f"{sidecar(path)}, where the metadata of {path.name} will be, was not written by predict; give another output, or move it"
            ) from None


def read_metadata(path: Path) -> dict[str, Any]:
    """What an output was made by, see docs/reference/formats.md. Raises `UserError` if it is not an output of `predict`."""
    try:
        if path.suffix.lower() == ".csv":
            found: dict[str, Any] = json.loads(sidecar(path).read_text(encoding="utf-8"))
        else:
            found = json.loads((pq.read_schema(path).metadata or {})[KEY])
        if found["format"] == FORMAT:
            return found
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        pass
    raise UserError(f"{path} has no metadata of a prediction; it was not written by predict")


def sidecar(path: Path) -> Path:
    """The file of the metadata of a CSV."""
    return path.with_name(path.name + ".json")


def write(
    path: Path, inputs: InputList, parts: PredictionParts, shape: Shape, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Write all parts as one table to `path`, atomically. Returns the metadata with the numbers of `rows`, of `refused` ones, of inputs by
    `reasons`, and of rows that are `positives` by label.

    Raises `NoneUsable` if no input could be used, or none has a study and rows are by study; `UserError` on a full disk and for probabilities that are none."""
    reasons = _reasons(parts)
    if sum(count for count, _ in reasons.values()) == len(inputs):
        raise NoneUsable(_none_usable(inputs, reasons))
    labels = shape.decisions.labels
    rows, refused, positives = 0, 0, dict.fromkeys(labels, 0)
    for table in _tables(inputs, parts, shape):
        rows += table.num_rows
        refused += table.num_rows - table["refused"].null_count
        for label in labels:
            positives[label] += pc.sum(table[f"decision/{label}"]).as_py() or 0
    described = {
        "format": FORMAT,
        **metadata,
        "rows": rows,
        "refused": refused,
        "reasons": {reason: count for reason, (count, _) in sorted(reasons.items())},
        "positives": positives,
    }
    # Made again rather than kept: the memory is that of one part.
    tables = _tables(inputs, parts, shape)
    if path.suffix.lower() == ".csv":
        write_atomic(sidecar(path), json.dumps(described, indent=1, ensure_ascii=False) + "\n")
        write_atomic(path, lambda file: _write_csv(file, tables, shape.schema))
    else:
        schema = shape.schema.with_metadata({KEY: json.dumps(described, ensure_ascii=False).encode()})
        write_atomic(path, lambda file: _write_parquet(file, tables, schema))
    return described


def _tables(inputs: InputList, parts: PredictionParts, shape: Shape) -> Iterator[pa.Table]:
    """The rows of the output: of each part, or all studies."""
    return _by_study(inputs, parts, shape) if shape.by_study else _by_input(inputs, parts, shape)


def _write_parquet(file: Any, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
    with pq.ParquetWriter(pa.PythonFile(file, mode="w"), schema) as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def _reasons(parts: PredictionParts) -> dict[str, tuple[int, int]]:
    """Why inputs were refused: how many, and the place of the first."""
    reasons: dict[str, tuple[int, int]] = {}
    for number in range(len(parts)):
        refused = parts.read(number)["refused"].to_pylist()
        for place, reason in zip(parts.positions(number).tolist(), refused, strict=True):
            if reason is not None:
                count, first = reasons.get(reason, (0, place))
                reasons[reason] = (count + 1, first)
    return reasons


def check_studies(inputs: InputList) -> None:
    """Raises `UserError` if no input can have a study: neither the list names studies, nor is any of its files of a kind that does."""
    plain = tuple(ending for ending in EXTENSIONS if ending not in DICOM_EXTENSIONS)
    if inputs.studies is None and all(name.lower().endswith(plain) for name in inputs.names):
        raise UserError(NO_STUDIES)


def _none_usable(inputs: InputList, reasons: Mapping[str, tuple[int, int]]) -> str:
    shown = sorted(reasons.items(), key=lambda each: -each[1][0])[:3]
    examples = "; ".join(
        f"{count:,} {reason}" + (f" (such as {public_name(inputs.names[first])})" if inputs.names else "")
        for reason, (count, first) in shown
    )
    return f"none of the {len(inputs):,} inputs can be used: {examples}; nothing was written; check the input" + (
        ", and for a table its --image and --root" if len(inputs) > 1 else ""
    )


def _by_input(inputs: InputList, parts: PredictionParts, shape: Shape) -> Iterator[pa.Table]:
    """The rows of each part."""
    for number in range(len(parts)):
        positions = parts.positions(number)
        part = parts.read(number)
        columns = _identity(inputs, positions)
        if shape.ids:
            columns |= {name: _identifiers(inputs, name, positions, part) for name in IDENTIFIERS}
        yield _rows(columns, part, shape)


def _by_study(inputs: InputList, parts: PredictionParts, shape: Shape) -> Iterator[pa.Table]:
    """One table of all studies, in the order of their first images. The combination is that of an evaluation by study."""
    assert shape.by_study is not None
    labels, task = shape.decisions.labels, shape.decisions.task
    frames = []
    for number in range(len(parts)):
        positions = parts.positions(number)
        part = parts.read(number)
        frame = part.select([*(f"prob/{label}" for label in labels), "refused", "unusual_score"]).to_pandas()
        for name in IDENTIFIERS:
            frame[name] = _identifiers(inputs, name, positions, part)
        frames.append(frame.assign(row=positions, source_row=positions))
    images = pd.concat(frames, ignore_index=True)
    if images["study"].isna().all():
        raise NoneUsable(NO_STUDIES)
    if inputs.patients is None:  # DICOM's study UIDs are unique without one
        images["patient"] = images["patient"].fillna("")
    used = images["refused"].isna()
    combined = studies.combine(images[used], labels, method=shape.by_study, task=task)
    # A study all of whose images were refused has a row too: the reason of its first image. So has each refused image without a study.
    lost = images[~used]
    no_study = lost["study"].isna() | lost["patient"].isna()
    lost = lost[no_study | ~lost.duplicated(["patient", "study"])]
    known = set(zip(combined["patient"], combined["study"], strict=True))
    alone = [
        pd.isna(p) or pd.isna(study) or (p, study) not in known
        for p, study in zip(lost["patient"], lost["study"], strict=True)
    ]
    table = pd.concat([combined.assign(refused=None), lost[alone].assign(images=0)]).sort_values("row", kind="stable")
    columns = _identity(inputs, table["row"].to_numpy(np.int64))
    if shape.ids:
        # pandas has NaN for a file that names no study, and "" stands for no patient.
        columns |= {name: [None if pd.isna(text) or not text else text for text in table[name]] for name in IDENTIFIERS}
    columns["images"] = table["images"].to_numpy(np.int64)
    part = {f"prob/{label}": table[f"prob/{label}"].to_numpy(np.float32) for label in labels}
    part["unusual_score"] = table["unusual_score"].to_numpy(np.float32)
    yield _rows(columns, pa.table({**part, "refused": pa.array(table["refused"].tolist(), pa.string())}), shape)


def _identity(inputs: InputList, positions: npt.NDArray[np.int64]) -> dict[str, Any]:
    if inputs.rows is not None:
        return {"row": inputs.rows[positions]}
    return {"image": [public_name(inputs.names[at]) for at in positions.tolist()]}


def _identifiers(
    inputs: InputList, name: str, positions: npt.NDArray[np.int64], part: pa.Table
) -> Sequence[str | None]:
    """Patients or studies of a part: of the list of inputs, else what the part has from the files."""
    known = inputs.patients if name == "patient" else inputs.studies
    if known is not None:
        return [known[at] for at in positions.tolist()]
    return part[name].to_pylist() if name in part.column_names else [None] * len(positions)


def _rows(columns: dict[str, Any], part: pa.Table, shape: Shape) -> pa.Table:
    """Rows of the output from probabilities and reasons. All values of a refused input are null."""
    decisions = shape.decisions
    refused = part["refused"].to_pylist()
    usable = np.array([reason is None for reason in refused])
    prob_nL = np.stack([part[f"prob/{label}"].to_numpy() for label in decisions.labels], axis=1)
    found = prob_nL[usable]
    values = {"prob": found, "decision": decisions.decide(found)}
    if (calibrated := decisions.calibrated(found)) is not None:
        values["calibrated"] = calibrated
    for kind, array in values.items():
        for j, label in enumerate(decisions.labels):
            full = np.zeros(len(usable), array.dtype)
            full[usable] = array[:, j]
            columns[f"{kind}/{label}"] = pa.array(full, mask=~usable)
    columns["refused"] = refused
    score_n = part["unusual_score"].to_numpy()
    columns["unusual_score"] = pa.array(score_n, mask=np.isnan(score_n))
    columns["unusual"] = pa.array(score_n > 1, mask=np.isnan(score_n))
    schema = shape.schema
    arrays = [
        pa.array(value, field.type) if not isinstance(value, pa.Array) else value.cast(field.type)
        for field in schema
        for value in [columns[field.name]]
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _write_csv(file: Any, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
    file.write(pd.DataFrame(columns=schema.names).to_csv(index=False).encode())
    for table in tables:
        body = io.StringIO()
        table.to_pandas(types_mapper=_NULLABLE.get).to_csv(body, index=False, header=False)
        file.write(body.getvalue().encode())


_NULLABLE = {pa.bool_(): pd.BooleanDtype(), pa.int64(): pd.Int64Dtype()}
