"""Photo -> face: decode, detect, crop."""

from siamese_verify.faces.corruption import CORRUPTIONS, corrupt, describe_corruption
from siamese_verify.faces.crop import Box, crop_face
from siamese_verify.faces.detector import Face, FaceDetector, most_central
from siamese_verify.faces.photo import Photo, open_photo

__all__ = [
    "CORRUPTIONS",
    "Box",
    "Face",
    "FaceDetector",
    "Photo",
    "corrupt",
    "crop_face",
    "describe_corruption",
    "most_central",
    "open_photo",
]
