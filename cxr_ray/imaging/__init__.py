"""Files to gray pixels: decoding, DICOM, perceptual hashes, burned-in text."""
