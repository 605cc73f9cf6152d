"""Losses: embeddings and labels -> a scalar to minimize, one family a file."""

from siamese_verify.losses.base import BatchLoss, MeasuredLoss, reduce_items
from siamese_verify.losses.contrastive import ContrastiveLoss, CosinePairLoss, contrastive_loss, cosine_pair_loss
from siamese_verify.losses.info_nce import (
    InBatchNegatives,
    InfoNCELoss,
    NCELoss,
    QueryLoss,
    info_nce_loss,
    nce_loss,
)
from siamese_verify.losses.linear_softmax import LinearSoftmaxLoss
from siamese_verify.losses.magnet import MagnetLoss, magnet_loss
from siamese_verify.losses.margin_softmax import ArcFaceLoss, CosFaceLoss, arc_face_cosine, cos_face_cosine
from siamese_verify.losses.memory import CrossBatchMemory, EmbeddingQueue
from siamese_verify.losses.quality_margin import (
    AdaFaceLoss,
    MagFaceLoss,
    ada_face_cosine,
    mag_face_margin,
    mag_face_penalty,
)
from siamese_verify.losses.softmax import NTXentLoss, SupConLoss, nt_xent_loss, sup_con_loss
from siamese_verify.losses.triplet import TripletLoss, soft_triplet_loss, triplet_loss

__all__ = [
    "AdaFaceLoss",
    "ArcFaceLoss",
    "BatchLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CosinePairLoss",
    "CrossBatchMemory",
    "EmbeddingQueue",
    "InBatchNegatives",
    "InfoNCELoss",
    "LinearSoftmaxLoss",
    "MagFaceLoss",
    "MagnetLoss",
    "MeasuredLoss",
    "NCELoss",
    "NTXentLoss",
    "QueryLoss",
    "SupConLoss",
    "TripletLoss",
    "ada_face_cosine",
    "arc_face_cosine",
    "contrastive_loss",
    "cos_face_cosine",
    "cosine_pair_loss",
    "info_nce_loss",
    "mag_face_margin",
    "mag_face_penalty",
    "magnet_loss",
    "nce_loss",
    "nt_xent_loss",
    "reduce_items",
    "soft_triplet_loss",
    "sup_con_loss",
    "triplet_loss",
]
