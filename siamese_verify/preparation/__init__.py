"""Preparation of a data set: detect, align and store faces once."""

from siamese_verify.preparation.align_photos import Alignment
from siamese_verify.preparation.contact_sheets import Cell, contact_sheet, in_rows, save_sheet
from siamese_verify.preparation.prepare_faces import prepare_faces

__all__ = ["Alignment", "Cell", "contact_sheet", "in_rows", "prepare_faces", "save_sheet"]
