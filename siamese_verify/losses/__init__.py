"""Objectives: embeddings and their labels in, one number to descend out. One objective a file."""

from siamese_verify.losses.contrastive import ContrastiveLoss, contrastive_loss
from siamese_verify.losses.cosine_pair import CosinePairLoss, cosine_pair_loss
from siamese_verify.losses.nt_xent import NTXentLoss
from siamese_verify.losses.objective import BatchObjective, Measured
from siamese_verify.losses.reduction import reduce_items
from siamese_verify.losses.sup_con import SupConLoss
from siamese_verify.losses.triplet import TripletLoss, soft_triplet_loss, triplet_loss

__all__ = [
    "BatchObjective",
    "ContrastiveLoss",
    "CosinePairLoss",
    "Measured",
    "NTXentLoss",
    "SupConLoss",
    "TripletLoss",
    "contrastive_loss",
    "cosine_pair_loss",
    "reduce_items",
    "soft_triplet_loss",
    "triplet_loss",
]
