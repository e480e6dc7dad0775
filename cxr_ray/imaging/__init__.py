"""Image files to gray pixels: decoding, DICOM, statistics, perceptual hashes, burned-in text. Reads no table and no label."""
