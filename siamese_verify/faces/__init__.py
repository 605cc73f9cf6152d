"""Face detection, selection, alignment and quality for one photo."""

from siamese_verify.faces.alignment import Alignment, alignment_name, crop_face
from siamese_verify.faces.detector import (
    FACE_PROBABILITY,
    Choice,
    Face,
    FaceDetector,
    ambiguous,
    choose_face,
    rotate_photo,
    rotated_size,
)
from siamese_verify.faces.detector_networks import detector_files, load_networks
from siamese_verify.faces.finder import Subject, find_subject, find_subjects, level, search
from siamese_verify.faces.photo import Photo, open_photo, reduced
from siamese_verify.faces.quality import Quality, quality_of, ranges_of, sharpness

__all__ = [
    "FACE_PROBABILITY",
    "Alignment",
    "Choice",
    "Face",
    "FaceDetector",
    "Photo",
    "Quality",
    "Subject",
    "alignment_name",
    "ambiguous",
    "choose_face",
    "crop_face",
    "detector_files",
    "find_subject",
    "find_subjects",
    "level",
    "load_networks",
    "open_photo",
    "quality_of",
    "ranges_of",
    "reduced",
    "rotate_photo",
    "rotated_size",
    "search",
    "sharpness",
]
