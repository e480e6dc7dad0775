"""DICOM by an allow-list of tags: reads a header, and decodes the image to one gray plane. Needs the extra `dicom`. Resizes nothing.

Names, dates and every tag that is not listed here are never read. Identifiers are read only to join and to split; callers of
`read_header` hash them (`datasets/dicom_folder.py`).

Gray values: stored values, through the modality LUT (or slope and intercept), through the VOI LUT or window (the first of
several; without any, the range of the image itself) to 0..255; MONOCHROME1 inverted; padding black. Formulas: PS3.3 C.11.1,
C.11.2 and C.7.5.1.1.2. pydicom's own functions are not used: with a negative slope they reverse the window, and their 8-bit
VOI LUT wraps around. In all other cases `tests/imaging/test_dicom.py` checks that the results are equal.
"""
# H, W height and width of the image; V the values that the bits of a pixel can represent

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr_ray.errors import UserError
from cxr_ray.imaging.pixels import Depth, ImageError, to_16_bit
from cxr_ray.storage.remote import AnyPath

if TYPE_CHECKING:
    from pydicom import Dataset

Values = npt.NDArray[np.float64]

EXTRA_MISSING = "a DICOM, which needs the extra dicom: pip install 'cxr_ray[dicom]'"
PIXEL_TAGS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "VOILUTFunction", "WindowCenter",
    "WindowWidth", "PixelData",
)  # fmt: skip
"""All that decoding needs."""
CONTENT_TAGS = ("ImageType", "Modality", "BodyPartExamined", "ViewPosition", "Rows", "Columns", "NumberOfFrames")
"""Distinguish a chest X-ray from other objects."""
IDENTIFIER_TAGS = ("PatientID", "StudyInstanceUID", "SOPInstanceUID", "AccessionNumber")
"""To join and to split."""
PLUGINS = {"1.2.840.10008.1.2.4.9": "pylibjpeg", "1.2.840.10008.1.2.4.20": "pylibjpeg", "1.2.840.10008.1.2.4": "gdcm"}
"""Decoder by the start of the transfer syntax: openjpeg for JPEG 2000 (and HTJ2K), gdcm for JPEG. Never Pillow, which converts
what it reads. RLE and uncompressed pixels are decoded by pydicom itself."""
DEFLATED = "1.2.840.10008.1.2.1.99"


def is_dicom(data: bytes) -> bool:
    """Whether the first bytes of a file (132 or more) are those of a DICOM (PS3.10, with its preamble)."""
    return data[128:132] == b"DICM"


def require_extra() -> None:
    """Raises `UserError` if the extra is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise UserError("reading DICOM needs the extra dicom: pip install 'cxr_ray[dicom]'") from None


def read_header(path: AnyPath) -> dict[str, str]:
    """The tags `CONTENT_TAGS` and `IDENTIFIER_TAGS` of the file as text, without absent and empty ones. Pixels are not read.

    Multiple values are joined by a backslash, as in the file. Raises `ImageError`: not a DICOM, file unreadable, damaged."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    with _quiet():
        try:
            with path.open("rb") as file:
                dataset = dcmread(file, stop_before_pixels=True, specific_tags=[*CONTENT_TAGS, *IDENTIFIER_TAGS])
                values = {name: dataset[name].value for name in (*CONTENT_TAGS, *IDENTIFIER_TAGS) if name in dataset}
        except InvalidDicomError:
            raise ImageError("not a DICOM") from None
        except OSError:
            raise ImageError("file unreadable") from None
        except UserError:  # the server of a remote path does not answer
            raise
        except Exception:  # pydicom's readers raise anything on damaged bytes
            raise ImageError("damaged") from None
    texts = {name: "\\".join(map(str, v)) if _is_multiple(v) else str(v or "") for name, v in values.items()}
    return {name: text.strip() for name, text in texts.items() if text.strip()}


def read_gray(data: bytes, *, max_pixels: int, depth: Depth = 8) -> tuple[Image.Image, tuple[float, float] | None]:
    """The image in the bytes of a DICOM file, and the stored values that became black and white (None for colour). Its mode is
    L, or at a depth of 16 F from 0 to 65535.

    Raises `ImageError`: several frames, no pixels, over the pixel cap (by header and by codestream, before decoding),
    unsupported pixel kind, unsupported transfer syntax, truncated, damaged; and `EXTRA_MISSING` if the extra is not installed."""
    try:
        from pydicom import dcmread
    except ImportError:
        raise ImageError(EXTRA_MISSING) from None

    if _is_deflated(data):  # pydicom would inflate the complete file, to any size
        raise ImageError("unsupported transfer syntax")
    with _quiet():
        dataset = dcmread(BytesIO(data), specific_tags=list(PIXEL_TAGS))
        if "PixelData" not in dataset and any(tag in data for tag in (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10")):
            raise ImageError("truncated")  # pydicom drops an incomplete last element
        _check_pixels(dataset, max_pixels)
        raw = _stored_values(dataset, max_pixels)
    if raw.ndim == 3:
        luma = Image.fromarray(raw).convert("L")
        return (luma if depth == 8 else to_16_bit(luma)), None
    shade_V, pattern_HW, window = _gray_table(raw, dataset)
    table = np.rint(255 * shade_V).astype(np.uint8) if depth == 8 else (65535 * shade_V).astype(np.float32)
    return Image.fromarray(table[pattern_HW]), window


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence pydicom and gdcm: they warn, log and print values of tags, none of which may reach a log."""
    from pydicom import config

    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        import gdcm

        gdcm.Trace.WarningOff()
        gdcm.Trace.ErrorOff()
    except ImportError:
        pass
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _is_multiple(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue"


def _is_deflated(data: bytes) -> bool:
    """Whether the file meta header, which is never deflated, names the deflated transfer syntax."""
    at = data.find(b"\x02\x00\x10\x00UI", 132, 4096)  # (0002,0010), explicit little endian
    return at >= 0 and data[at + 8 :].startswith(DEFLATED.encode())


def _check_pixels(dataset: "Dataset", max_pixels: int) -> None:
    if not all(name in dataset for name in ("PixelData", "Rows", "Columns")) or not dataset.Rows or not dataset.Columns:
        raise ImageError("no pixels")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ImageError("several frames")
    if dataset.Rows * dataset.Columns > max_pixels:
        raise ImageError("over the pixel cap")
    kind, samples = dataset.get("PhotometricInterpretation", ""), dataset.get("SamplesPerPixel", 1)
    gray = kind in ("MONOCHROME1", "MONOCHROME2") and samples == 1 and dataset.BitsAllocated in (8, 16)
    colour = (kind == "RGB" or kind.startswith("YBR_")) and samples == 3 and dataset.BitsAllocated == 8
    if not (gray or colour):
        raise ImageError("unsupported pixel kind")


def _stored_values(dataset: "Dataset", max_pixels: int) -> npt.NDArray[Any]:
    """Stored values [H, W], or RGB [H, W, 3]."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError("unsupported transfer syntax") from None
    plugin = next((name for start, name in PLUGINS.items() if syntax.startswith(start)), "")
    if syntax.is_encapsulated:
        if not decoder.is_available:
            raise ImageError("unsupported transfer syntax")
        size = _codestream_size(get_frame(dataset.PixelData, 0, number_of_frames=1))
        if size is not None and size[0] * size[1] > max_pixels:  # a codestream larger than Rows x Columns
            raise ImageError("over the pixel cap")
        if size is not None and size != (dataset.Rows, dataset.Columns):
            raise ImageError("damaged")
    elif 8 * len(dataset.PixelData) < dataset.Rows * dataset.Columns * dataset.BitsAllocated:
        raise ImageError("truncated")
    raw, _ = decoder.as_array(dataset, index=0, decoding_plugin=plugin)
    return raw


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """(H, W) in the header of a JPEG, JPEG-LS or JPEG 2000 codestream; None without one (RLE)."""
    at = frame.find(b"\xff\x4f\xff\x51", 0, 256)  # JPEG 2000: SOC, SIZ
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
        return bottom - top, right - left
    at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # start of frame
            height, width = struct.unpack_from(">2H", frame, at + 5)
            return height, width
        at += 1 if marker == 0xFF else 2 + length
    return None


def _gray_table(
    raw_HW: npt.NDArray[Any], dataset: "Dataset"
) -> tuple[Values, npt.NDArray[np.unsignedinteger[Any]], tuple[float, float]]:
    """The gray (0 black, 1 white) of every value that a pixel can have, the bit patterns [H, W] that index it, and the window.

    A table is exact, and far faster than arithmetic on each pixel."""
    bits = np.dtype(f"u{raw_HW.dtype.itemsize}")
    value_V: Values = np.arange(2 ** (8 * bits.itemsize), dtype=bits).view(raw_HW.dtype).astype(np.float64)
    pattern_HW = np.ascontiguousarray(raw_HW).view(bits)
    padding_V = _padding(value_V, dataset)
    shade_V = _shades(_modality(value_V, dataset), dataset)
    if shade_V is None:  # no VOI: the range of the image itself, without padding
        occurs_V = np.zeros(len(value_V), bool)
        occurs_V[pattern_HW.reshape(-1)] = True
        occurs_V &= ~padding_V
        shade_V = _modality(value_V, dataset)
        low, high = (shade_V[occurs_V].min(), shade_V[occurs_V].max()) if occurs_V.any() else (0.0, 0.0)
        shade_V = np.clip((shade_V - low) / ((high - low) or 1.0), 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shade_V = 1 - shade_V
    window = _window(value_V, shade_V)
    shade_V[padding_V] = 0
    return shade_V, pattern_HW, window


def _padding(value_V: Values, dataset: "Dataset") -> npt.NDArray[np.bool_]:
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return np.zeros(len(value_V), bool)
    limit = limit if isinstance(limit, int) else value
    return (value_V >= min(value, limit)) & (value_V <= max(value, limit))


def _modality(value_V: Values, dataset: "Dataset") -> Values:
    if dataset.get("ModalityLUTSequence"):
        entries, first = _lut(dataset.ModalityLUTSequence[0])
        return entries[np.clip(value_V - first, 0, len(entries) - 1).astype(np.int64)]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return value_V * float(1 if slope is None else slope) + float(intercept or 0)


def _shades(input_V: Values, dataset: "Dataset") -> Values | None:
    """0 (black) to 1 for each modality value, by the VOI LUT, else by the window; None without a usable one."""
    if dataset.get("VOILUTSequence"):
        entries, first = _lut(dataset.VOILUTSequence[0])
        low, high = entries.min(), entries.max()  # of the LUT itself: many declare 16 bits and use 12
        if high > low:
            return (entries[np.clip(np.rint(input_V) - first, 0, len(entries) - 1).astype(np.int64)] - low) / (
                high - low
            )
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is None or width is None:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID" and width > 0:
        return 1 / (1 + np.exp(np.clip(-4 * (input_V - center) / width, -700, 700)))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    if width < 0 or (width == 0 and function == "LINEAR_EXACT"):
        return None
    if width == 0:  # a threshold
        return (input_V > center).astype(np.float64)
    return np.clip((input_V - center) / width + 0.5, 0, 1)


def _lut(item: "Dataset") -> tuple[Values, int]:
    """Entries of a LUT, and the input value of the first."""
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if bits <= 8 and len(data) <= count + 1 else "<u2")
    entries = np.asarray(data, np.float64)[:count]
    if not len(entries):
        raise ImageError("damaged")
    return entries, first


def _first(value: Any) -> float | None:
    value = (list(value) or [None])[0] if _is_multiple(value) else value
    return None if value in (None, "") else float(value)


def _window(value_V: Values, shade_V: Values) -> tuple[float, float]:
    """The last stored value that is black and the first that is white, in the direction from black to white."""
    black, white = value_V[shade_V == shade_V.min()], value_V[shade_V == shade_V.max()]
    inverted = black.mean() > white.mean()
    return (float(black.min()), float(white.max())) if inverted else (float(black.max()), float(white.min()))
