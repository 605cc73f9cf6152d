"""Encoders: images (B,3,S,S) -> embeddings (B,D); each has the `InputSpec` of its images."""

from siamese_verify.encoders.encoder import AdaptedEncoder, Encoder, MirroredEncoder, Pixels, raw_inputs
from siamese_verify.encoders.inception_resnet import InceptionResNet
from siamese_verify.encoders.layers import EncoderLayer, list_layers
from siamese_verify.encoders.mobilefacenet import MobileFaceNet
from siamese_verify.encoders.openface import OpenFace
from siamese_verify.encoders.own_module import check_encoder, create_encoder, encoder_class, wrap_module
from siamese_verify.encoders.perceptron import Perceptron
from siamese_verify.encoders.resnet import IResNet, ResNet18, SmallResNet
from siamese_verify.encoders.sface import SFace
from siamese_verify.encoders.timm_models import TimmEncoder, VisionTransformer
from siamese_verify.encoders.towers import Towers

__all__ = [
    "AdaptedEncoder",
    "Encoder",
    "EncoderLayer",
    "IResNet",
    "InceptionResNet",
    "MirroredEncoder",
    "MobileFaceNet",
    "OpenFace",
    "Perceptron",
    "Pixels",
    "ResNet18",
    "SFace",
    "SmallResNet",
    "TimmEncoder",
    "Towers",
    "VisionTransformer",
    "check_encoder",
    "create_encoder",
    "encoder_class",
    "list_layers",
    "raw_inputs",
    "wrap_module",
]
