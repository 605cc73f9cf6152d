"""SFace's network of OpenCV's model zoo: a MobileNet for faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from siamese_verify.encoders.encoder import Encoder, check_crop
from siamese_verify.errors import InputError
from siamese_verify.opencv_zoo import SFACE, SFACE_INPUT, published
from siamese_verify.structures import Crop

# Channels and stride of each pair of a depthwise and a pointwise convolution.
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
PIXELS = 49  # of the last feature map


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm and PReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.1),
        nn.PReLU(outputs),
    )


class SFace(Encoder):
    """The network that OpenCV's model zoo gives with SFace (Zhong et al., TIP 2021): MobileNet v1 and one linear layer.

    Args:
        pretrained: `sface` for the weights of OpenCV's model zoo (11 MB, downloaded once to the cache); None for random
            weights.
        dropout: of the features before the linear layer, in [0, 1).
        crop: how faces are cropped; the pretrained weights are for five landmarks of YuNet.
        normalize: give embeddings of unit length.

    Raises:
        InputError: unknown or unavailable weights, or weights for another crop.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        dropout: float = 0.4,
        crop: Crop = SFACE_INPUT.crop,
        normalize: bool = True,
    ) -> None:
        if pretrained not in (None, "sface"):
            raise InputError(f"pretrained must be sface or null, got {pretrained!r}.")
        if pretrained:
            check_crop(pretrained, crop, "five_point")
        layers, channels = [convolution(3, 32, 3)], 32
        for outputs, stride in PAIRS:
            layers += [convolution(channels, channels, 3, stride, channels), convolution(channels, outputs, 1)]
            channels = outputs
        backbone = nn.Sequential(
            *layers,
            nn.BatchNorm2d(channels, eps=2e-5),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(channels * PIXELS, 128),
            nn.BatchNorm1d(128, eps=2e-5),
        )
        if pretrained:
            load_published(backbone)
        super().__init__(backbone, 128, replace(SFACE_INPUT, crop=crop), normalize)


def load_published(backbone: nn.Module) -> None:
    """Load the weights of the zoo's file, whose nodes are in the order of the layers."""
    from onnx import load_from_string

    from siamese_verify.onnx_folding import Graph

    graph = Graph(load_from_string(published(SFACE)))
    kinds = {"Conv": nn.Conv2d, "BatchNormalization": nn.modules.batchnorm._BatchNorm, "PRelu": nn.PReLU}
    kinds |= {"Gemm": nn.Linear}
    nodes = [node for node in graph.nodes if node.op_type in kinds]
    modules = [module for module in backbone.modules() if isinstance(module, tuple(kinds.values()))]
    for node, module in zip(nodes, modules, strict=True):
        assert isinstance(module, kinds[node.op_type])
        values = [torch.from_numpy(np.array(graph.constants[name])) for name in node.input[1:]]
        state = module.state_dict()
        tensors = [state[name] for name in ("weight", "bias", "running_mean", "running_var") if name in state]
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data.copy_(value.reshape(tensor.shape))
