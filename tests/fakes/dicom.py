"""DICOM files in every transfer syntax that we read, with any tags, and with identifiers that must never leave them."""

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
    """A DX image of `pixels` (uint8, uint16 or int16 [H, W], uint8 [H, W, 3]; None: an object without pixels). `tags` override
    the defaults; None removes a tag."""
    from pydicom import Dataset, FileMetaDataset
    from pydicom.uid import UID, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(SYNTAXES["explicit" if syntax not in ("implicit", "big") else syntax])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    for name, value in SECRETS.items():
        setattr(dataset, name, value)
    if pixels is not None:
        _set_pixels(dataset, pixels, bits, big=syntax == "big")
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    if "SOPInstanceUID" in tags:
        dataset.file_meta.MediaStorageSOPInstanceUID = tags["SOPInstanceUID"]
    if syntax in ("rle", "j2k", "j2k_lossy"):
        loss = [4.0] if syntax == "j2k_lossy" else None
        dataset.compress(SYNTAXES[syntax], generate_instance_uid=False, j2k_cr=loss)
    if syntax == "jpeg":
        _set_jpeg(dataset, pixels)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return _convert_with_gdcm(file.getvalue(), _GDCM[syntax]) if syntax in _GDCM else file.getvalue()


def write(path: Path, pixels: np.ndarray | None, syntax: str = "explicit", **options: Any) -> Path:
    """Write `dicom(...)` to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom(pixels, syntax, **options))
    return path


def raw_element(keyword: str, value: bytes, vr: str | None, *, little: bool = True) -> Any:
    """A dataset of one element as it is read from a file: bytes that nobody has converted. `vr` None: implicit."""
    from pydicom import Dataset
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    dataset = Dataset()
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, vr is None, little)
    return dataset


def _set_pixels(dataset: Any, pixels: np.ndarray, bits: int | None, *, big: bool) -> None:
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"


def _set_jpeg(dataset: Any, pixels: np.ndarray | None) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    assert pixels is not None
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    dataset.PixelData = encapsulate([file.getvalue()])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    if pixels.ndim == 3:
        dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.file_meta.TransferSyntaxUID = UID(SYNTAXES["jpeg"])


def _convert_with_gdcm(data: bytes, syntax: str) -> bytes:
    """Convert the file to a transfer syntax that only gdcm writes."""
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
