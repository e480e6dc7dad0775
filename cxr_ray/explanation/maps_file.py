"""maps.npz: maps written batch by batch and read without loading them. The format is in docs/reference/formats.md."""
# N maps: an image and an explained output each. H x W pixels

import shutil
import struct
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.lib.format
import numpy.typing as npt

from cxr_ray.errors import UserError
from cxr_ray.explanation.explainer import MapBatch

ROWS, LABELS = "rows", "labels"
"""The arrays that are not maps."""
CHUNK_BYTES = 1 << 20
LOCAL_HEADER = struct.Struct("<26x2H")  # of a file in a ZIP archive: the lengths of its name and of its extra field


class MapsWriter:
    """Collects maps in files of a folder, one per method, so that memory does not grow with their number."""

    def __init__(self, folder: Path, methods: Sequence[str]) -> None:
        """`folder` exists and is the caller's; temporary files in it are gone after the `with` block."""
        self._paths = {method: folder / f".maps-{at}.tmp" for at, method in enumerate(methods)}
        self._files: dict[str, IO[bytes]] = {}
        self._open = ExitStack()
        self._shape: tuple[int, int] | None = None
        self._rows: list[npt.NDArray[np.int64]] = []
        self._labels: list[str] = []

    def __enter__(self) -> "MapsWriter":
        for method, path in self._paths.items():
            self._files[method] = self._open.enter_context(path.open("w+b"))
        return self

    def add(self, batch: MapBatch) -> None:
        """Append the maps of a batch."""
        for method, maps_NHW in batch.maps.items():
            self._files[method].write(np.ascontiguousarray(maps_NHW, dtype=np.float32).data)
            self._shape = (maps_NHW.shape[1], maps_NHW.shape[2])
        self._rows.append(batch.rows)
        self._labels += batch.labels

    def write(self, path: Path) -> None:
        """Write `path` (.npz) from all batches. Equal maps give equal bytes."""
        if self._shape is None:
            raise UserError("there is no image to explain")
        rows_N = np.concatenate(self._rows).astype("<i8")
        labels_N = np.asarray(self._labels, dtype=np.str_)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, array in ((ROWS, rows_N), (LABELS, labels_N)):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows_N), *self._shape)}
            for method, file in self._files.items():
                file.seek(0)
                with archive.open(f"{method}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array_header_1_0(entry, header)
                    shutil.copyfileobj(file, entry, CHUNK_BYTES)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        for path in self._paths.values():
            path.unlink(missing_ok=True)


def open_maps(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a maps.npz by name. Maps are memory-mapped, as the archive does not compress them."""
    out: dict[str, npt.NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            file.seek(entry.header_offset)
            file.seek(sum(LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))), 1)
            np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            assert entry.compress_type == zipfile.ZIP_STORED and not fortran and not dtype.hasobject
            out[entry.filename.removesuffix(".npy")] = np.memmap(path, dtype, "r", file.tell(), shape)
    return out
