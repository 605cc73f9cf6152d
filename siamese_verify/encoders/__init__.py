"""Images (B,3,S,S) -> embeddings (B,D); every encoder carries its InputSpec."""

from siamese_verify.encoders.encoder import Encoder, MirroredEncoder
from siamese_verify.encoders.inception_resnet import InceptionResNet
from siamese_verify.encoders.mobilefacenet import MobileFaceNet
from siamese_verify.encoders.pixels import Pixels
from siamese_verify.encoders.resnet18 import ResNet18
from siamese_verify.encoders.small import SmallResNet

__all__ = ["Encoder", "InceptionResNet", "MirroredEncoder", "MobileFaceNet", "Pixels", "ResNet18", "SmallResNet"]
