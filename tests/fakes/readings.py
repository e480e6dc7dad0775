"""Slow readings of image files by other means: pydicom, Pillow, and the formats' own specifications. Float64, one pixel plane."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def read_dicom(data: bytes) -> np.ndarray:
    """Gray values 0 to 255 [H, W], unrounded, of a DICOM whose header pydicom understands. Raises what pydicom raises."""
    from pydicom import config, dcmread
    from pydicom.filewriter import correct_ambiguous_vr
    from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing, get_decoder

    with config.disable_value_validation():
        dataset = dcmread(io.BytesIO(data), force=True)
        implicit, little = dataset.original_encoding
        assert implicit is not None and little is not None
        correct_ambiguous_vr(dataset, little)
        syntax = dataset.file_meta.get("TransferSyntaxUID") or {
            (True, True): "1.2.840.10008.1.2", (False, True): "1.2.840.10008.1.2.1", (False, False): "1.2.840.10008.1.2.2",
        }[implicit, little]  # fmt: skip
        plugin = "pylibjpeg" if syntax.startswith("1.2.840.10008.1.2.4.9") else "gdcm" if ".2.4." in syntax else ""
        shift = int(dataset.get("HighBit", dataset.BitsStored - 1)) + 1 - dataset.BitsStored
        raw, _ = get_decoder(syntax).as_array(dataset, index=0, decoding_plugin=plugin, correct_unused_bits=False)  # type: ignore[arg-type]
        if raw.ndim == 3:
            return np.asarray(Image.fromarray(raw).convert("L"), np.float64)
        value = (raw.astype(np.int64) >> shift) & (2**dataset.BitsStored - 1)
        low = 0
        if dataset.PixelRepresentation:
            value -= (value >> (dataset.BitsStored - 1)) << dataset.BitsStored
            low = -(2 ** (dataset.BitsStored - 1))
        high = low + 2**dataset.BitsStored - 1
        ends = np.array([low, high])
        if "RescaleSlope" in dataset or "RescaleIntercept" in dataset:  # pydicom needs both; the other one is 1 or 0
            for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0)):
                if dataset.get(name) is None:
                    setattr(dataset, name, default)
        modality, limits = apply_modality_lut(value, dataset), np.sort(apply_modality_lut(ends, dataset).astype(float))
        padded = _padding(raw.astype(np.int64), value, dataset)
        shade = None
        if dataset.get("VOILUTSequence"):
            # The type of the first input is that of the rescaled range (PS3.3 C.11.2.1.1), which pydicom does not consider.
            descriptor = dataset.VOILUTSequence[0].LUTDescriptor
            if limits[0] < 0 and descriptor[1] >= 2**15:
                descriptor[1] -= 2**16
            shade = apply_voi(np.rint(modality).astype(np.int64), dataset).astype(np.float64) / 65535
        elif dataset.get("WindowCenter") is not None and _usable(dataset):
            dataset.PhotometricInterpretation, inverted = "MONOCHROME2", dataset.PhotometricInterpretation
            shown = apply_windowing(modality.astype(np.float64), dataset)
            dataset.PhotometricInterpretation = inverted
            out_low, out_high = (
                (limits[0], limits[1]) if "RescaleSlope" in dataset and "RescaleIntercept" in dataset else (low, high)
            )
            shade = (shown - out_low) / (out_high - out_low)
        if shade is None:
            seen = modality[~padded]
            darkest, brightest = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
            shade = np.clip((modality - darkest) / ((brightest - darkest) or 1.0), 0, 1)
        shade = 1 - shade if dataset.PhotometricInterpretation == "MONOCHROME1" else shade
        return np.where(padded, 0.0, 255 * shade)


def _padding(raw: np.ndarray, value: np.ndarray, dataset: Any) -> np.ndarray:
    """pydicom does not apply padding (PS3.3 C.7.5.1.1.2)."""
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(value.shape, bool)
    last = dataset.get("PixelPaddingRangeLimit", first)
    inside = (value >= min(first, last)) & (value <= max(first, last))
    return inside | ((raw % 65536 == first % 65536) & (dataset.BitsStored < 16) & (raw.max() >= 2**dataset.BitsStored))


def _usable(dataset: Any) -> bool:
    width, function = dataset.get("WindowWidth"), str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    width = width[0] if hasattr(width, "__len__") and not isinstance(width, str) else width
    return width is not None and (
        float(width) >= 1 if function not in ("LINEAR_EXACT", "SIGMOID") else float(width) > 0
    )


def read_picture(data: bytes) -> np.ndarray:
    """Gray values 0 to 255 [H, W] of the first frame: of deep files by the slow readers below, of all others by Pillow."""
    samples = None
    if data.startswith(b"\x89PNG"):
        samples = _png_samples(data)
    elif data[:2] in (b"II", b"MM"):
        samples = _tiff_samples(data)
    if samples is not None:
        return _scaled(*samples)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, (0, 0, 0, 255)), upright.convert("RGBA"))
        return np.asarray(upright.convert("L" if upright.mode != "P" else "RGB").convert("L"), np.float64)


def _scaled(samples: np.ndarray, white_at_zero: bool, transparent: tuple[int, ...] | None) -> np.ndarray:
    """Deep samples [H, W, S] from their visible minimum to their maximum, on black."""
    count = samples.shape[2]
    alpha = samples[..., -1] / 65535 if count in (2, 4) else np.ones(samples.shape[:2])
    if transparent is not None and count in (1, 3):
        alpha = 1.0 - (samples == np.array(transparent)).all(-1)
    gray = (
        samples[..., 0].astype(np.float64) if count < 3 else np.rint(samples[..., :3] @ np.array([0.299, 0.587, 0.114]))
    )
    seen = gray[alpha > 0]
    low, high = (seen.min(), seen.max()) if seen.size else (0.0, 0.0)
    shade = np.clip((gray - low) / ((high - low) or 1.0), 0, 1)
    return 255 * (1 - shade if white_at_zero else shade) * alpha


def _png_samples(data: bytes) -> tuple[np.ndarray, bool, tuple[int, ...] | None] | None:
    """The samples of a PNG of 16 bits, not interlaced, by the PNG specification 9; None for others."""
    at, body, transparent = 8, b"", None
    width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if bits != 16 or interlaced:
        return None
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        chunk = data[at + 8 : at + 8 + length]
        body += chunk if name == b"IDAT" else b""
        if name == b"tRNS":
            transparent = struct.unpack(f">{len(chunk) // 2}H", chunk)
        if name == b"IEND":
            break
        at += length + 12
    rows, step = zlib.decompressobj().decompress(body), {0: 2, 2: 6, 4: 4, 6: 8}[kind]
    stride, above, out = width * step, bytes(width * step), bytearray()
    for y in range(height):
        start = y * (stride + 1)
        rule, row = rows[start], bytearray(rows[start + 1 : start + 1 + stride])
        for i in range(stride):
            a, b, c = (row[i - step], above[i], above[i - step]) if i >= step else (0, above[i], 0)
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[i] = (row[i] + (0, a, b, (a + b) // 2, nearest)[rule]) % 256
        out += row
        above = bytes(row)
    return np.frombuffer(bytes(out), ">u2").reshape(height, width, step // 2).astype(np.int64), False, transparent


def _tiff_samples(data: bytes) -> tuple[np.ndarray, bool, None] | None:
    """The samples of a TIFF 6.0 of more than 8 bits, in one strip, chunky; None for others."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[at : at + 2])
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        number, kind, length = struct.unpack(order + "2HI", data[entry : entry + 8])
        size = {1: 1, 3: 2, 4: 4}.get(kind)
        if size is None:
            continue
        place = entry + 8 if length * size <= 4 else struct.unpack(order + "I", data[entry + 8 : entry + 12])[0]
        tags[number] = struct.unpack(
            order + f"{length}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", data[place : place + length * size]
        )
    bits = max(tags.get(258, (1,)))
    if bits <= 8:
        return None
    strip = data[tags[273][0] : tags[273][0] + tags[279][0]]
    strip = zlib.decompressobj().decompress(strip) if tags[259][0] == 8 else strip
    dtype = np.dtype(f"{order}{ {1: 'u', 2: 'i', 3: 'f'}[tags.get(339, (1,))[0]] }{bits // 8}")
    height, width, samples = tags[257][0], tags[256][0], tags.get(277, (1,))[0]
    values = np.frombuffer(strip, dtype)[: height * width * samples].reshape(height, width, samples)
    return values.astype(np.float64), tags[262][0] == 0, None
