"""DICOM files made by code: any transfer syntax that we read, any tag, and names and dates that must never come out."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SECRETS = {
    "PatientName": "DOE^JANE^Q", "PatientID": "MRN-00471123", "PatientBirthDate": "19530417", "StudyDate": "20240229",
    "AccessionNumber": "ACC-998877", "InstitutionName": "St. Elsewhere", "ReferringPhysicianName": "HOUSE^GREGORY",
    "StudyDescription": "CHEST PA of Jane", "StationName": "XRAY-ROOM-5", "PatientAddress": "1 Infinite Loop",
}  # fmt: skip
SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1", "implicit": "1.2.840.10008.1.2", "big": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5", "j2k": "1.2.840.10008.1.2.4.90", "j2k_lossy": "1.2.840.10008.1.2.4.91",
    "lossless": "1.2.840.10008.1.2.4.70", "lossless14": "1.2.840.10008.1.2.4.57", "jpegls": "1.2.840.10008.1.2.4.80",
    "jpeg": "1.2.840.10008.1.2.4.50",
}  # fmt: skip
_GDCM = {"lossless": "JPEGLosslessProcess14_1", "lossless14": "JPEGLosslessProcess14", "jpegls": "JPEGLSLossless"}


def dicom(pixels: np.ndarray | None, syntax: str = "explicit", *, bits: int | None = None, **tags: Any) -> bytes:
    """A DX image of `pixels` (uint8, uint16 or int16 [H, W], uint8 [H, W, 3]; None: an object without any), written with
    `tags` laid over the defaults; None leaves a tag out."""
    from pydicom import Dataset, FileMetaDataset
    from pydicom.uid import UID, generate_uid

    held = Dataset()
    held.file_meta = FileMetaDataset()
    held.file_meta.TransferSyntaxUID = UID(SYNTAXES["explicit" if syntax not in ("implicit", "big") else syntax])
    held.SOPClassUID = held.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    held.SOPInstanceUID = held.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    held.StudyInstanceUID = generate_uid()
    held.Modality, held.BodyPartExamined, held.ViewPosition = "DX", "CHEST", "PA"
    held.ImageType = ["ORIGINAL", "PRIMARY"]
    for name, value in SECRETS.items():
        setattr(held, name, value)
    if pixels is not None:
        _lay_in(held, pixels, bits, big=syntax == "big")
    for name, value in tags.items():
        if value is None:
            delattr(held, name)
        else:
            setattr(held, name, value)
    if "SOPInstanceUID" in tags:
        held.file_meta.MediaStorageSOPInstanceUID = tags["SOPInstanceUID"]
    if syntax in ("rle", "j2k", "j2k_lossy"):
        held.compress(
            SYNTAXES[syntax], generate_instance_uid=False, **({"j2k_cr": [4]} if syntax == "j2k_lossy" else {})
        )
    if syntax == "jpeg":
        _as_jpeg(held, pixels)
    file = io.BytesIO()
    held.save_as(file, enforce_file_format=True)
    return _through_gdcm(file.getvalue(), _GDCM[syntax]) if syntax in _GDCM else file.getvalue()


def write(path: Path, pixels: np.ndarray | None, syntax: str = "explicit", **options: Any) -> Path:
    """The same in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom(pixels, syntax, **options))
    return path


def _lay_in(held: Any, pixels: np.ndarray, bits: int | None, *, big: bool) -> None:
    held.Rows, held.Columns = pixels.shape[:2]
    held.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    held.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        held.PlanarConfiguration = 0
    held.BitsAllocated = 8 * pixels.itemsize
    held.BitsStored = bits or held.BitsAllocated
    held.HighBit = held.BitsStored - 1
    held.PixelRepresentation = int(pixels.dtype.kind == "i")
    body = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    held.PixelData = body + b"\0" * (len(body) % 2)
    held["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"


def _as_jpeg(held: Any, pixels: np.ndarray | None) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    assert pixels is not None
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    held.PixelData = encapsulate([file.getvalue()])
    held["PixelData"].VR, held["PixelData"].is_undefined_length = "OB", True
    if pixels.ndim == 3:
        held.PhotometricInterpretation = "YBR_FULL_422"
    held.file_meta.TransferSyntaxUID = UID(SYNTAXES["jpeg"])


def _through_gdcm(data: bytes, syntax: str) -> bytes:
    """The file in a syntax that only gdcm writes."""
    import tempfile

    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.dcm", Path(folder) / "after.dcm"
        before.write_bytes(data)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(before))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(after))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return after.read_bytes()
