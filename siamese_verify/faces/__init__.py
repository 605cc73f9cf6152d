"""Photo -> face: decode, detect, align, judge."""

from siamese_verify.faces.crop import alignment_name, crop_face
from siamese_verify.faces.detector import FACE_PROBABILITY, Choice, Face, FaceDetector, ambiguous, choose_face
from siamese_verify.faces.networks import detector_files, load_networks
from siamese_verify.faces.photo import Photo, open_photo, reduced
from siamese_verify.faces.quality import Quality, quality_of, ranges_of, sharpness
from siamese_verify.faces.subject import Subject, find_subject, find_subjects, level, search
from siamese_verify.faces.turning import turned, turned_size

__all__ = [
    "FACE_PROBABILITY",
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
    "search",
    "sharpness",
    "turned",
    "turned_size",
]
