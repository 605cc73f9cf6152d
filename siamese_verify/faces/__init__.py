"""Photo -> face: decode, detect, align, judge."""

from siamese_verify.faces.corruption import CORRUPTIONS, corrupt, describe_corruption
from siamese_verify.faces.crop import alignment_name, crop_face
from siamese_verify.faces.detector import Choice, Face, FaceDetector, choose_face
from siamese_verify.faces.photo import Photo, open_photo
from siamese_verify.faces.quality import sharpness
from siamese_verify.faces.subject import Subject, find_subject, find_subjects

__all__ = [
    "CORRUPTIONS",
    "Choice",
    "Face",
    "FaceDetector",
    "Photo",
    "Subject",
    "alignment_name",
    "choose_face",
    "corrupt",
    "crop_face",
    "describe_corruption",
    "find_subject",
    "find_subjects",
    "open_photo",
    "sharpness",
]
