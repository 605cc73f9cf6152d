"""Encrypted galleries: enroll people, identify photos, forget people. Importing it loads no torch or onnxruntime."""

from siamese_verify.gallery.enrolled_people import Enrollment, GalleryModel, LogEntry, Person, person_name
from siamese_verify.gallery.gallery import Gallery
from siamese_verify.gallery.identification import Candidate, Identification, SearchThreshold, search_threshold
from siamese_verify.gallery.key import GalleryKey, find_key, new_key
from siamese_verify.gallery.store import default_gallery

__all__ = [
    "Candidate",
    "Enrollment",
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
