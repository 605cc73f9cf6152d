"""Two photos -> Verification; the model bundle."""

from siamese_verify.verification.bundle import load_bundle, save_bundle
from siamese_verify.verification.model import FaceModel, load_checkpoint, load_model, store_thresholds
from siamese_verify.verification.scoring import embed_photos, score_pairs, score_protocol
from siamese_verify.verification.verifier import NoDecision, Verification, Verifier

__all__ = [
    "FaceModel",
    "NoDecision",
    "Verification",
    "Verifier",
    "embed_photos",
    "load_bundle",
    "load_checkpoint",
    "load_model",
    "save_bundle",
    "score_pairs",
    "score_protocol",
    "store_thresholds",
]
