"""Albums: all faces of many photos, embedded, searched, grouped by person and cleaned."""

from siamese_verify.albums.face_table import FaceTable

__all__ = ["FaceTable"]
