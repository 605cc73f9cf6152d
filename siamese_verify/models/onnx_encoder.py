"""An encoder for torch that runs an ONNX network: for bundles whose class is not at hand, or that compute in int8."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from siamese_verify.encoders import Encoder
from siamese_verify.models.bundle import NETWORK, FaceModel, open_bundle
from siamese_verify.models.engines import Engine, OnnxEngine
from siamese_verify.models.exported_network import network_of
from siamese_verify.structures import InputSpec


class OnnxEncoder(Encoder):
    """An encoder that embeds by ONNX Runtime. It has no weights and no gradients.

    Args:
        engine: runs the network.
        embedding_size: D.
        input_spec: of the images.
    """

    def __init__(self, engine: Engine, embedding_size: int, input_spec: InputSpec) -> None:
        super().__init__(nn.Identity(), embedding_size, input_spec)
        self.engine = engine

    def forward(self, images: Tensor) -> Tensor:
        """Embed (B,3,S,S) uint8 images, or (B,*shape) arrays; (B,D)."""
        return torch.from_numpy(self.engine(self.input_spec.channels_last(images).numpy()))


def load_onnx(folder: Path, device: str = "cpu") -> FaceModel:
    """Load a bundle to embed by its ONNX network, after an integrity check of all its files.

    Args:
        folder: of the bundle.
        device: see `siamese_verify.onnx_runtime.open_session`.

    Raises:
        InputError: a file or field is missing, of another format, or was changed.
    """
    bundle = open_bundle(folder)
    bundle.check(bundle.files)
    metadata = bundle.metadata
    kind = metadata.input_spec.array_type
    engine = OnnxEngine(network_of(bundle), str(folder / NETWORK), arrays=kind, device=device)
    return FaceModel(OnnxEncoder(engine, metadata.embedding_size, metadata.input_spec).eval(), metadata)
