"""Albums: all faces of many photos, embedded, searched, grouped by person and cleaned."""

from siamese_verify.albums.face_table import FaceTable
from siamese_verify.albums.grouping import FALSE_MERGE_RATE, Grouping, PersonModel, group_faces

__all__ = ["FALSE_MERGE_RATE", "FaceTable", "Grouping", "PersonModel", "group_faces"]
