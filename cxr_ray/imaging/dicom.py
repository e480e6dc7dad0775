"""DICOM by an allow-list of tags: reads a header, and decodes the image to one gray plane. Needs the extra `dicom`. Resizes nothing.

Names, dates and every tag that is not listed here are never read. Identifiers are read only to join and to split; callers of
`read_header` hash them (`datasets/dicom_folder.py`).

How stored values become gray is in `dicom_gray.py`. A header that contradicts itself or its codestream is refused before a decoder
is called: gdcm ends the process on some of these.
"""
# H, W height and width of the image

import logging
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr_ray.errors import UserError
from cxr_ray.imaging.codestream import Codestream, is_sound_jpeg, read_codestream
from cxr_ray.imaging.dicom_gray import Bits, gray_table, read_bits
from cxr_ray.imaging.dicom_values import number
from cxr_ray.imaging.pixels import Depth, ImageError, Plane, refuse_lost, to_16_bit
from cxr_ray.storage.remote import AnyPath

if TYPE_CHECKING:
    from pydicom import Dataset

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
NATIVE: dict[Any, str] = {
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}
"""Transfer syntax of uncompressed pixels by (implicit VR, little endian), for files that do not name theirs."""
EXTENDED_12_BIT = "1.2.840.10008.1.2.4.51"
DICOMDIR = "1.2.840.10008.1.3.10"
"""Class of the index of a DICOM folder, which has no image."""
HEAD_BYTES = 1024
"""First bytes of a file that tell whether it is a DICOM."""
SHORT_VRS = frozenset((b"UL", b"UI", b"CS", b"SH", b"DA", b"TM", b"LO", b"DT", b"US", b"AE"))
LONG_VRS = frozenset((b"OB", b"UN", b"SQ", b"UC", b"UR", b"UT"))
"""VRs of explicit elements with a length of 2 and of 4 bytes, as far as they occur at the start of a file."""


def is_dicom(data: bytes) -> bool:
    """Whether the first bytes of a file (`HEAD_BYTES`, if it has so many) are those of a DICOM: with its preamble (PS3.10 7.1), or
    without it, which older writers leave out: then two elements of group 2 or 8 in ascending order."""
    if data[128:132] == b"DICM":
        return True
    for order, explicit in (("<", True), ("<", False), (">", True)):
        first = _element(data, 0, order, explicit=explicit)
        second = first and _element(data, first[2], order, explicit=explicit)
        if first and second and first[:2] < second[:2]:
            return True
    return False


def _element(data: bytes, at: int, order: str, *, explicit: bool) -> tuple[int, int, int] | None:
    """Group and number of the element of group 2 or 8 at `at`, and where the next one begins; None if there is none. Group 2 is always
    explicit, and the first elements are short."""
    if at + 12 > len(data):
        return None
    group, number = struct.unpack_from(order + "2H", data, at)
    vr, start = data[at + 4 : at + 6], at + 8
    if not explicit:
        (length,) = struct.unpack_from(order + "I", data, at + 4)
    elif vr in LONG_VRS:
        start, (length,) = at + 12, struct.unpack_from(order + "I", data, at + 8)
    elif vr in SHORT_VRS:
        (length,) = struct.unpack_from(order + "H", data, at + 6)
    else:
        return None
    known = group == 8 or (group == 2 and explicit)
    return (group, number, start + length) if known and start + length <= HEAD_BYTES else None


def require_extra() -> None:
    """Raises `UserError` if the extra is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise UserError("reading DICOM needs the extra dicom: pip install 'cxr_ray[dicom]'") from None


def read_header(path: AnyPath) -> dict[str, str]:
    """The tags `CONTENT_TAGS` and `IDENTIFIER_TAGS` of the file as text, without absent and empty ones. Pixels are not read.

    Multiple values are joined by a backslash, as in the file. Raises `ImageError`: not a DICOM, empty file, DICOMDIR index, file unreadable,
    damaged."""
    from pydicom import dcmread

    with quiet():
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
                if not is_dicom(head):
                    raise ImageError("not a DICOM" if head else "empty file")
                file.seek(0)
                tags = [*CONTENT_TAGS, *IDENTIFIER_TAGS]
                dataset = dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)
                if dataset.file_meta.get("MediaStorageSOPClassUID") == DICOMDIR:
                    raise ImageError("DICOMDIR index")
                frames = number(dataset, "NumberOfFrames")
                values = {name: dataset[name].value for name in tags if name in dataset}
                values |= {"NumberOfFrames": None if frames is None else int(frames)}
        except OSError:
            raise ImageError("file unreadable") from None
        except (ImageError, UserError):  # a UserError: the server of a remote path does not answer
            raise
        except Exception:  # pydicom's readers raise anything on damaged bytes
            raise ImageError("damaged") from None
    texts = {
        name: "\\".join(map(str, v)) if _is_multiple(v) else "" if v is None else str(v) for name, v in values.items()
    }
    return {name: text.strip() for name, text in texts.items() if text.strip()}


def read_gray(data: bytes, *, max_pixels: int, depth: Depth = 8) -> Plane:
    """The image in the bytes of a DICOM file.

    Raises `ImageError`: several frames, no pixels, over the pixel cap (by header and by codestream, before decoding),
    unsupported pixel kind, unsupported transfer syntax, pixel tags missing, truncated, damaged, values not finite, `ONE_GRAY`; X contradicts Y
    (of HighBit, BitsStored, BitsAllocated, SamplesPerPixel and the codestream); and `EXTRA_MISSING` if the extra is not installed."""
    try:
        from pydicom import dcmread
    except ImportError:
        raise ImageError(EXTRA_MISSING) from None

    if _is_deflated(data):  # pydicom would inflate the complete file, to any size
        raise ImageError("unsupported transfer syntax")
    with quiet():
        dataset = dcmread(BytesIO(data), specific_tags=list(PIXEL_TAGS), force=True)
        if "PixelData" not in dataset and any(tag in data for tag in (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10")):
            raise ImageError("truncated")  # pydicom drops an incomplete last element
        bits = _check_pixels(dataset, max_pixels)
        raw = _stored_values(dataset, bits, max_pixels)
        if raw.ndim == 3:
            luma = Image.fromarray(raw).convert("L")
            refuse_lost(luma, raw)
            return Plane(luma if depth == 8 else to_16_bit(luma))
        shade_V, pattern_HW, window = gray_table(raw, dataset, bits)
    table = np.rint(255 * shade_V).astype(np.uint8) if depth == 8 else (65535 * shade_V).astype(np.float32)
    gray = Image.fromarray(table[pattern_HW])
    refuse_lost(gray, raw)
    return Plane(gray, window)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom and gdcm: they warn, log and print values of tags, none of which may reach a log.

    Their switches are those of the process: the first thread that enters turns them off, and the last that leaves turns them on."""
    with _QUIET_LOCK:
        if not _inside:
            _restored.enter_context(_silence())
        _inside.append(None)
    try:
        yield
    finally:
        with _QUIET_LOCK:
            _inside.pop()
            if not _inside:
                _restored.close()


_QUIET_LOCK = threading.Lock()
_inside: list[None] = []
"""One entry for each `quiet` that is entered now."""
_restored = ExitStack()


@contextmanager
def _silence() -> Iterator[None]:
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
    at = data.find(b"\x02\x00\x10\x00UI", 0, 4096)  # (0002,0010), explicit little endian
    return at >= 0 and data[at + 8 :].startswith(DEFLATED.encode())


def _check_pixels(dataset: "Dataset", max_pixels: int) -> Bits:
    """The bits of a pixel, if the header describes one frame of pixels that we read. Raises `ImageError`."""
    if not all(name in dataset for name in ("PixelData", "Rows", "Columns")) or not dataset.Rows or not dataset.Columns:
        raise ImageError("no pixels")
    if (number(dataset, "NumberOfFrames") or 1) > 1:
        raise ImageError("several frames")
    if dataset.Rows * dataset.Columns > max_pixels:
        raise ImageError("over the pixel cap")
    kind, samples = dataset.get("PhotometricInterpretation"), dataset.get("SamplesPerPixel")
    if not isinstance(kind, str) or not isinstance(samples, int):
        raise ImageError("pixel tags missing")
    bits, allocated = read_bits(dataset), dataset.BitsAllocated
    gray = kind in ("MONOCHROME1", "MONOCHROME2") and samples == 1 and allocated in (8, 16)
    colour = (kind == "RGB" or kind.startswith("YBR_")) and samples == 3 and allocated == 8
    if not gray and not (colour and bits.stored == 8 and not bits.signed):
        raise ImageError("unsupported pixel kind")
    return bits


def _stored_values(dataset: "Dataset", bits: Bits, max_pixels: int) -> npt.NDArray[Any]:
    """The pixels as they are stored [H, W], or RGB [H, W, 3]."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    named = dataset.file_meta.get("TransferSyntaxUID")
    syntax = UID(named or NATIVE.get(dataset.original_encoding, ""))
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError("unsupported transfer syntax") from None
    if not named and dataset["PixelData"].is_undefined_length:  # compressed, nobody knows how
        raise ImageError("unsupported transfer syntax")
    plugin = next((name for start, name in PLUGINS.items() if syntax.startswith(start)), "")
    codestream = None
    if syntax.is_encapsulated:
        if not decoder.is_available:
            raise ImageError("unsupported transfer syntax")
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        codestream = read_codestream(frame)
        if codestream is None and plugin:
            raise ImageError("damaged")
        if bits.shift:
            raise ImageError("HighBit contradicts BitsStored")
        if syntax == EXTENDED_12_BIT and bits.stored > 8:  # gdcm has no decoder for it
            raise ImageError("unsupported transfer syntax")
    elif 8 * len(dataset.PixelData) < dataset.Rows * dataset.Columns * dataset.BitsAllocated:
        raise ImageError("truncated")
    if codestream is not None:
        _check_codestream(codestream, dataset, bits, max_pixels)
        if plugin == "gdcm" and not is_sound_jpeg(frame):
            raise ImageError("damaged")
        # A decoder that gets the bits of the codestream neither ends the process nor cuts values off.
        dataset.BitsStored, dataset.HighBit = codestream.bits, codestream.bits - 1
    if "NumberOfFrames" in dataset:
        dataset.NumberOfFrames = 1
    # The table of dicom_gray.py ignores unused bits at no cost; here it would take two passes over the pixels.
    unused_bits: Any = {"correct_unused_bits": False}  # pydicom's annotation of its options is not valid
    raw, _ = decoder.as_array(dataset, index=0, decoding_plugin=plugin, **unused_bits)
    if codestream is not None and codestream.bits > bits.stored and not bits.low <= raw.min() <= raw.max() <= bits.high:
        raise ImageError("BitsStored contradicts the codestream")
    return raw


def _check_codestream(found: Codestream, dataset: "Dataset", bits: Bits, max_pixels: int) -> None:
    """Raises `ImageError` if the codestream contradicts the header.

    Many writers declare 16 bits in one of them and 10 to 14 in the other. Of unsigned values, and where the codestream has all
    allocated bits, it is plain what is meant; then only the values themselves can contradict."""
    if found.height * found.width > max_pixels:  # larger than Rows x Columns
        raise ImageError("over the pixel cap")
    if (found.height, found.width) != (dataset.Rows, dataset.Columns):
        raise ImageError("damaged")
    if found.samples != dataset.SamplesPerPixel:
        raise ImageError("SamplesPerPixel contradicts the pixels")
    plain = min(found.bits, bits.stored) > 8 and (not bits.signed or found.bits == dataset.BitsAllocated)
    if found.bits > dataset.BitsAllocated or not (found.bits == bits.stored or plain):
        raise ImageError("BitsStored contradicts the codestream")
