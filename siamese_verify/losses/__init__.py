"""Objectives: embeddings and their labels in, one number to descend out. One objective a file."""

from siamese_verify.losses.contrastive import ContrastiveLoss, contrastive_loss
from siamese_verify.losses.objective import BatchObjective
from siamese_verify.losses.reduction import active_share, reduce_items
from siamese_verify.losses.triplet import TripletLoss, soft_triplet_loss, triplet_loss

__all__ = [
    "BatchObjective",
    "ContrastiveLoss",
    "TripletLoss",
    "active_share",
    "contrastive_loss",
    "reduce_items",
    "soft_triplet_loss",
    "triplet_loss",
]
