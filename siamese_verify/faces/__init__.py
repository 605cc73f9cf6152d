"""Face detection, selection, alignment and quality for one photo."""

from siamese_verify.faces.alignment import alignment_name, crop_face
from siamese_verify.faces.detector import DETECTORS, Face, FaceDetector, Mtcnn, YuNet, detector_files, load_detector
from siamese_verify.faces.finder import (
    AlignedFace,
    FaceFinder,
    FaceSearch,
    OnMultipleFaces,
    SelectedFace,
    SelectOneFace,
    align_face,
    check_on_multiple_faces,
    check_select_one_face,
)
from siamese_verify.faces.photo import NotAPhoto, Photo, open_photo, reduced
from siamese_verify.faces.quality import Quality, quality_of, quality_scores, ranges_of, sharpness
from siamese_verify.faces.rotation import rotate_photo, rotated_size

__all__ = [
    "DETECTORS",
    "AlignedFace",
    "Face",
    "FaceDetector",
    "FaceFinder",
    "FaceSearch",
    "Mtcnn",
    "NotAPhoto",
    "OnMultipleFaces",
    "Photo",
    "Quality",
    "SelectOneFace",
    "SelectedFace",
    "YuNet",
    "align_face",
    "alignment_name",
    "check_on_multiple_faces",
    "check_select_one_face",
    "crop_face",
    "detector_files",
    "load_detector",
    "open_photo",
    "quality_of",
    "quality_scores",
    "ranges_of",
    "reduced",
    "rotate_photo",
    "rotated_size",
    "sharpness",
]
