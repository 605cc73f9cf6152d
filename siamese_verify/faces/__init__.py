"""Photo -> face: decode, detect, crop."""

from siamese_verify.faces.crop import Box, crop_face
from siamese_verify.faces.detector import Face, FaceDetector, most_central
from siamese_verify.faces.photo import Photo, open_photo

__all__ = ["Box", "Face", "FaceDetector", "Photo", "crop_face", "most_central", "open_photo"]
