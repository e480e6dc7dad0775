"""The parts of an unfinished prediction, in the folder OUT.parts: which inputs and settings it is of, and the results so far.

A part is a fixed number of inputs. Its file is written atomically once all of them are predicted or refused, so a prediction that was
killed goes on with the missing parts.
"""
# N inputs, n of a part, L labels

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_ray.data.store_format import digest_of
from cxr_ray.errors import UserError
from cxr_ray.inference.batch_prediction import PredictedBatch
from cxr_ray.storage.atomic import make_folder, write_atomic
from cxr_ray.storage.lease import NAME as LEASE
from cxr_ray.storage.remote import remove_tree

MANIFEST = "manifest.json"
PART_INPUTS = 1024
"""Inputs of a part: what a kill can lose at most, and a multiple of the usual batch sizes."""
DIFFERS = {
    "inputs": "of other inputs",
    "weights": "of another run, or of other weights",
    "thresholds": "with other thresholds",
    "decision": "with other thresholds",
    "calibration": "with another calibration",
}
"""What another value of a setting means; of the others their name is given."""
Columns = Mapping[str, list[Any]]
Finish = Callable[[npt.NDArray[np.int64], npt.NDArray[np.float32], list[str | None]], Columns]
"""Of a whole part: places in the list of inputs [n], probabilities [n, L], reasons [n] to further columns [n] of text."""


def difference(settings: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What `other` differs in, in words; an empty string if in nothing."""
    for name in dict.fromkeys([*DIFFERS, *settings, *other]):
        if settings.get(name) != other.get(name):
            return DIFFERS.get(name, f"with another {name}")
    return ""


class PredictionParts:
    """The folder of parts of the output `out`, for `count` inputs with these `settings` (plain JSON).

    `finish` adds columns to a part before it is written, or does what must be done once for each part; a part is predicted again if it
    is not `is_whole`: what `finish` did is gone. Raises `UserError` if the
    folder holds an unfinished prediction that differs."""

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, Any],
        labels: tuple[str, ...],
        *,
        count: int,
        finish: Finish | None = None,
        is_whole: Callable[[pa.Table], bool] = lambda part: True,
    ) -> None:
        self.folder = folder_of(out)
        self._settings, self._labels, self._count, self._finish = dict(settings), labels, count, finish
        self._is_whole = is_whole
        make_folder(self.folder)
        self._open()
        self._buffers: dict[int, list[PredictedBatch]] = {}

    def _open(self) -> None:
        file = self.folder / MANIFEST
        wanted: dict[str, Any] = {
            "settings": self._settings,
            "digest": digest_of(self._settings),
            "part_inputs": PART_INPUTS,
        }
        if not file.exists():
            if any(not each.name.startswith(".") and each.name != LEASE for each in self.folder.iterdir()):
                raise UserError(
                    f"{self.folder}, where unfinished parts are kept, has files that predict did not write; move them, or give another output"
                )
            write_atomic(file, json.dumps(wanted, indent=1, ensure_ascii=False))
            self._size = PART_INPUTS
        else:
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
                what = difference(self._settings, found["settings"])
                self._size = int(found["part_inputs"])
            except (ValueError, KeyError, TypeError, AttributeError):
                what = "that cannot be read"
            if what:
                raise UserError(
                    f"{self.folder} has an unfinished prediction {what}: repeat the command that began it, delete that folder, or "
                    "give another output"
                )
        for stale in self.folder.glob(".*.tmp"):  # left by a killed prediction
            stale.unlink(missing_ok=True)

    def __len__(self) -> int:
        return -(-self._count // self._size)

    def missing(self) -> npt.NDArray[np.int64]:
        """Places of the inputs of all parts that are missing."""
        todo = [number for number in range(len(self)) if not self._is_done(number)]
        return np.concatenate([np.zeros(0, np.int64), *(self._positions(number) for number in todo)])

    def add(self, batch: PredictedBatch) -> int:
        """Results of inputs in any order; parts that are complete now are written. Returns the number of refused inputs."""
        for number in np.unique(batch.positions // self._size).tolist():
            here = batch.positions // self._size == number
            refused = tuple(reason for reason, own in zip(batch.refused, here, strict=True) if own)
            buffered = self._buffers.setdefault(number, [])
            buffered.append(
                PredictedBatch(batch.positions[here], batch.probabilities[here], refused, batch.scores[here])
            )
            if sum(len(each.positions) for each in buffered) == len(self._positions(number)):
                self._write(number, self._buffers.pop(number))
        return sum(reason is not None for reason in batch.refused)

    def __iter__(self) -> Iterator[pa.Table]:
        return map(self.read, range(len(self)))

    def read(self, number: int) -> pa.Table:
        """A part: `prob/LABEL` and `unusual_score` float32 (NaN where refused), `refused`, and the columns of `finish`, in the order of the inputs."""
        return pq.read_table(pa.BufferReader(self._path(number).read_bytes()))

    def positions(self, number: int) -> npt.NDArray[np.int64]:
        """Places of the inputs of a part [n]."""
        return self._positions(number)

    def remove(self) -> None:
        """Delete the folder."""
        remove_tree(self.folder)

    def _positions(self, number: int) -> npt.NDArray[np.int64]:
        return np.arange(number * self._size, min((number + 1) * self._size, self._count), dtype=np.int64)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"

    def _is_done(self, number: int) -> bool:
        try:
            part = self.read(number)
        except (OSError, pa.ArrowException):
            return False
        return part.num_rows == len(self._positions(number)) and self._is_whole(part)

    def _write(self, number: int, batches: list[PredictedBatch]) -> None:
        positions = np.concatenate([each.positions for each in batches])
        order = np.argsort(positions, kind="stable")
        prob_nL = np.concatenate([each.probabilities for each in batches])[order]
        reasons = [reason for each in batches for reason in each.refused]
        refused = [reasons[at] for at in order.tolist()]
        columns: dict[str, Any] = {f"prob/{label}": prob_nL[:, j] for j, label in enumerate(self._labels)}
        columns["refused"] = pa.array(refused, pa.string())
        columns["unusual_score"] = np.concatenate([each.scores for each in batches])[order]
        if self._finish is not None:
            further = self._finish(positions[order], prob_nL, refused)
            columns |= {name: pa.array(values, pa.string()) for name, values in further.items()}
        table = pa.table(columns)
        write_atomic(self._path(number), lambda file: pq.write_table(table, pa.PythonFile(file, mode="w")))


def folder_of(out: Path) -> Path:
    """The folder of the parts of an output."""
    return out.with_name(out.name + ".parts")
