"""Encoders: images (B,3,S,S) -> embeddings (B,D); each has the `InputSpec` of its images."""

from siamese_verify.encoders.encoder import Encoder, MirroredEncoder, Pixels
from siamese_verify.encoders.inception_resnet import InceptionResNet
from siamese_verify.encoders.mobilefacenet import MobileFaceNet
from siamese_verify.encoders.resnet import ResNet18, SmallResNet

__all__ = ["Encoder", "InceptionResNet", "MirroredEncoder", "MobileFaceNet", "Pixels", "ResNet18", "SmallResNet"]
