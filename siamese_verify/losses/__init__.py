"""Objectives: embeddings and their labels in, one number to descend out. One objective a file."""

from siamese_verify.losses.arc_face import ArcFaceLoss, arc_face_cosine
from siamese_verify.losses.contrastive import ContrastiveLoss, contrastive_loss
from siamese_verify.losses.cos_face import CosFaceLoss, cos_face_cosine
from siamese_verify.losses.cosine_pair import CosinePairLoss, cosine_pair_loss
from siamese_verify.losses.in_batch import InBatchNegatives
from siamese_verify.losses.info_nce import InfoNCELoss, info_nce_loss
from siamese_verify.losses.magnet import MagnetLoss, magnet_loss
from siamese_verify.losses.memory import CrossBatchMemory, EmbeddingQueue
from siamese_verify.losses.nce import NCELoss, nce_loss
from siamese_verify.losses.nt_xent import NTXentLoss
from siamese_verify.losses.objective import BatchObjective, Measured
from siamese_verify.losses.query_objective import QueryObjective
from siamese_verify.losses.reduction import reduce_items
from siamese_verify.losses.sup_con import SupConLoss
from siamese_verify.losses.triplet import TripletLoss, soft_triplet_loss, triplet_loss

__all__ = [
    "ArcFaceLoss",
    "BatchObjective",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CosinePairLoss",
    "CrossBatchMemory",
    "EmbeddingQueue",
    "InBatchNegatives",
    "InfoNCELoss",
    "MagnetLoss",
    "Measured",
    "NCELoss",
    "NTXentLoss",
    "QueryObjective",
    "SupConLoss",
    "TripletLoss",
    "arc_face_cosine",
    "contrastive_loss",
    "cos_face_cosine",
    "cosine_pair_loss",
    "info_nce_loss",
    "magnet_loss",
    "nce_loss",
    "reduce_items",
    "soft_triplet_loss",
    "triplet_loss",
]
