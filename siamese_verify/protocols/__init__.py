"""Protocols: what an evaluation measures, on which photos."""

from siamese_verify.protocols.few_shot import FewShotProtocol, few_shot
from siamese_verify.protocols.held_out import HeldOutShare, held_out, made_of, read_training_run, save_people
from siamese_verify.protocols.insightface_bin import insightface_bin
from siamese_verify.protocols.leakage import TrainingSubset, find_leak, refuse_leak
from siamese_verify.protocols.lfw_pairs import lfw_all_pairs, lfw_pairs
from siamese_verify.protocols.pair_file import pair_file
from siamese_verify.protocols.protocol import (
    EvaluationSettings,
    PairList,
    PairProtocol,
    PhotoSubset,
    Protocol,
    all_pairs,
    claimed_pairs,
    folder_pairs,
    keep_photos,
    sampled_pairs,
    with_doubtful,
    with_groups,
)
from siamese_verify.protocols.retrieval import RetrievalProtocol, retrieval, retrieval_list
from siamese_verify.protocols.template_pairs import TemplateProtocol, templates

__all__ = [
    "EvaluationSettings",
    "FewShotProtocol",
    "HeldOutShare",
    "PairList",
    "PairProtocol",
    "PhotoSubset",
    "Protocol",
    "RetrievalProtocol",
    "TemplateProtocol",
    "TrainingSubset",
    "all_pairs",
    "claimed_pairs",
    "few_shot",
    "find_leak",
    "folder_pairs",
    "held_out",
    "insightface_bin",
    "keep_photos",
    "lfw_all_pairs",
    "lfw_pairs",
    "made_of",
    "pair_file",
    "read_training_run",
    "refuse_leak",
    "retrieval",
    "retrieval_list",
    "sampled_pairs",
    "save_people",
    "templates",
    "with_doubtful",
    "with_groups",
]
