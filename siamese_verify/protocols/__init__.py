"""Verification protocols: the pairs that an evaluation scores."""

from siamese_verify.protocols.held_out import (
    HeldOutShare,
    Seen,
    SomePhotos,
    held_out,
    keep_photos,
    read_past_run,
    refuse_leak,
    save_people,
)
from siamese_verify.protocols.insightface_bin import insightface_bin
from siamese_verify.protocols.lfw_pairs import lfw_all_pairs, lfw_pairs
from siamese_verify.protocols.pair_file import pair_file
from siamese_verify.protocols.protocol import Listed, Protocol, all_pairs, folder_pairs, sampled_pairs

__all__ = [
    "HeldOutShare",
    "Listed",
    "Protocol",
    "Seen",
    "SomePhotos",
    "all_pairs",
    "folder_pairs",
    "held_out",
    "insightface_bin",
    "keep_photos",
    "lfw_all_pairs",
    "lfw_pairs",
    "pair_file",
    "read_past_run",
    "refuse_leak",
    "sampled_pairs",
    "save_people",
]
