"""Methods of learning without labels: the views of a batch -> a scalar to minimize, one method a file."""

from siamese_verify.methods.heads import mlp
from siamese_verify.methods.instance_discrimination import InstanceDiscrimination
from siamese_verify.methods.memory_bank import MemoryBank
from siamese_verify.methods.method import Learner, Method
from siamese_verify.methods.moco import MoCo
from siamese_verify.methods.moco_v3 import MoCoV3
from siamese_verify.methods.momentum import MomentumEncoder
from siamese_verify.methods.pirl import PIRL, jigsaw, pirl_nce_loss
from siamese_verify.methods.semi_supervised import SemiSupervised
from siamese_verify.methods.simclr import SimCLR
from siamese_verify.methods.simsiam import SimSiam, negative_cosine, output_spread

__all__ = [
    "PIRL",
    "InstanceDiscrimination",
    "Learner",
    "MemoryBank",
    "Method",
    "MoCo",
    "MoCoV3",
    "MomentumEncoder",
    "SemiSupervised",
    "SimCLR",
    "SimSiam",
    "jigsaw",
    "mlp",
    "negative_cosine",
    "output_spread",
    "pirl_nce_loss",
]
