"""People and their templates, encrypted: enrol, identify, forget. Importing it loads neither torch nor onnxruntime."""

from siamese_verify.gallery.enrolled_people import Enrolment, FaceVerifier, GalleryModel, LogEntry, Person, person_name
from siamese_verify.gallery.gallery import Gallery
from siamese_verify.gallery.identification import Candidate, Identification
from siamese_verify.gallery.key import GalleryKey, find_key, new_key
from siamese_verify.gallery.search_threshold import SearchThreshold, search_threshold
from siamese_verify.gallery.store import default_gallery

__all__ = [
    "Candidate",
    "Enrolment",
    "FaceVerifier",
    "Gallery",
    "GalleryKey",
    "GalleryModel",
    "Identification",
    "LogEntry",
    "Person",
    "SearchThreshold",
    "default_gallery",
    "find_key",
    "new_key",
    "person_name",
    "search_threshold",
]
