"""Inception-ResNet v1 of FaceNet, from facenet-pytorch."""

from __future__ import annotations

import pickle
from urllib.error import URLError

from torch import nn

from siamese_verify.encoders.encoder import Encoder
from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec


class InceptionResNet(Encoder):
    """Inception-ResNet v1, 512 dimensions, 160 x 160 (Szegedy et al. 2017; Schroff et al. 2015).

    Args:
        pretrained: `casia-webface` or `vggface2` for the weights of facenet-pytorch (107 MB, downloaded once to torch's
            cache); None for random weights.
        dropout: of the pooled features, in [0, 1).
        size: side of the input in pixels; 160 for the pretrained weights.
        crop: how faces are cropped; the author validated the pretrained weights on upright boxes with a margin of 32.
        normalize: give embeddings of unit length.

    Raises:
        InputError: unknown, damaged or unavailable weights.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        dropout: float = 0.6,
        size: int = 160,
        crop: Crop = Crop("box", margin=32),
        normalize: bool = True,
    ) -> None:
        from facenet_pytorch import InceptionResnetV1

        if pretrained not in (None, "casia-webface", "vggface2"):
            raise InputError(f"pretrained must be casia-webface, vggface2 or null, got {pretrained!r}.")
        try:
            backbone = InceptionResnetV1(pretrained=pretrained, dropout_prob=dropout)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                f"The weights of {pretrained} in torch's cache are damaged ({type(error).__name__}): delete them in "
                "checkpoints/ there, and they are downloaded again."
            ) from None
        except (URLError, OSError) as error:
            raise InputError(
                f"The weights of {pretrained} are not on this machine and cannot be downloaded ({error}): connect to "
                "the network once, or set TORCH_HOME to a folder that holds them in checkpoints/."
            ) from None
        backbone.logits = nn.Identity()  # embeddings need no classifier
        backbone.classify = True  # returns the output of `logits`; False would normalize it always
        super().__init__(backbone, 512, InputSpec(size, std=(128.0, 128.0, 128.0), crop=crop), normalize)
