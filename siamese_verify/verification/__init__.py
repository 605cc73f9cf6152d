"""Two photos -> Verification; the model bundle."""

from siamese_verify.verification.bundle import load_bundle, save_bundle
from siamese_verify.verification.checkpoint import load_checkpoint
from siamese_verify.verification.loading import load_model
from siamese_verify.verification.model import PRETRAINED, FaceModel, encoder_class, read_operating_points
from siamese_verify.verification.pretrained import ships_thresholds, store_thresholds
from siamese_verify.verification.scoring import embed_faces, embed_photos, score_pairs
from siamese_verify.verification.verifier import NoDecision, Verification, Verifier

__all__ = [
    "PRETRAINED",
    "FaceModel",
    "NoDecision",
    "Verification",
    "Verifier",
    "embed_faces",
    "embed_photos",
    "encoder_class",
    "load_bundle",
    "load_checkpoint",
    "load_model",
    "read_operating_points",
    "save_bundle",
    "score_pairs",
    "ships_thresholds",
    "store_thresholds",
]
