"""Encoders from timm (pytorch-image-models): any of its networks, and the vision transformer of InsightFace."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from siamese_verify.encoders.encoder import Encoder
from siamese_verify.encoders.own_module import find_embedding_size
from siamese_verify.errors import InputError, did_you_mean
from siamese_verify.structures import Crop, InputSpec


class TimmEncoder(Encoder):
    """A network of timm, which knows more than a thousand, with an embedding instead of its classifier.

    Pixels are standardized as the network's published weights expect it.

    Args:
        name: of the network, such as `resnet18.a1_in1k`; `timm.list_models()` lists them.
        pretrained: take the published weights, downloaded once from the Hugging Face Hub; else random ones.
        size: side of the input in pixels.
        embedding_size: of a linear layer and batch norm behind the pooled features; None for the features themselves.
        dropout: of the pooled features, in [0, 1).
        drop_path: share of residual branches that training leaves out, in [0, 1), for networks that have it (Huang et
            al., "Deep Networks with Stochastic Depth", ECCV 2016).
        crop: how faces are cropped from photos.
        normalize: give embeddings of unit length.

    Raises:
        InputError: timm is not installed, has no such network, or has it for other sizes only; weights that are
            unavailable.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        size: int = 112,
        embedding_size: int | None = 512,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        crop: Crop = Crop("box", margin=10),
        normalize: bool = True,
    ) -> None:
        timm = import_timm()
        if not timm.is_model(name):  # nor a model on the Hub or in a folder, which `create_model` would load
            hint = did_you_mean(name, timm.list_models(), 0.5) or "timm.list_models() lists its networks."
            raise InputError(f"timm has no network {name!r}: {hint}")
        options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        try:
            published = timm.get_pretrained_cfg(name, allow_unregistered=False)
            if getattr(published, "fixed_input_size", False):  # such as transformers, which learn positions
                options["img_size"] = size
            network = timm.create_model(name, pretrained=bool(pretrained), num_classes=0, **options)
        except Exception as error:  # of the Hub, of the network's own arguments
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"timm cannot make {name} for {size} x {size} pixels: {reason}") from None
        spec = InputSpec(size, _pixels(published.mean), _pixels(published.std), crop)
        features = find_embedding_size(network, spec, f"timm's {name}")
        head: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
        if embedding_size is not None:
            head += [nn.Linear(features, embedding_size, bias=False), nn.BatchNorm1d(embedding_size)]
        super().__init__(nn.Sequential(network, *head), embedding_size or features, spec, normalize)


class VisionTransformer(Encoder):
    """Vision transformer over patches without a class token, as InsightFace trains it for faces (ViT-S).

    Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021. All patches together are projected to the embedding,
    by two linear layers with batch norm. The defaults are InsightFace's ViT-S without masked patches, of 76 million
    weights. It needs timm.

    Args:
        size: side of the input in pixels.
        patch_size: side of a patch in pixels; pixels that fill no patch are left out.
        width: of a patch's vector, a multiple of `heads`.
        depth: number of blocks.
        heads: of the attention.
        mlp_ratio: width of a block's hidden layer over `width`.
        embedding_size: length of an embedding.
        drop_path: share of the last block's residual branches that training leaves out; 0 in the first block.
        crop: how faces are cropped from photos; InsightFace's are `five_point`.
        normalize: give embeddings of unit length.

    Raises:
        InputError: timm is not installed, or the sizes do not fit.
    """

    def __init__(
        self,
        size: int = 112,
        patch_size: int = 9,
        width: int = 512,
        depth: int = 12,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        embedding_size: int = 512,
        drop_path: float = 0.05,
        crop: Crop = Crop("five_point"),
        normalize: bool = True,
    ) -> None:
        import_timm()
        models = importlib.import_module("timm.models")
        if width % heads or not 0 < patch_size <= size:
            raise InputError(
                f"A vision transformer's width must be a multiple of its heads and its patches no larger than the "
                f"image, got width={width}, heads={heads}, patch_size={patch_size}, size={size}."
            )
        network = models.VisionTransformer(
            img_size=size,
            patch_size=patch_size,
            num_classes=0,
            global_pool="",
            class_token=False,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=False,
            drop_path_rate=drop_path,
            act_layer=nn.ReLU6,
        )
        layers = [
            network,
            nn.Flatten(),  # (B,P,W) -> (B,P*W)
            nn.Linear(width * (size // patch_size) ** 2, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        ]
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
        super().__init__(nn.Sequential(*layers), embedding_size, InputSpec(size, crop=crop), normalize)


def _pixels(values: tuple[float, float, float]) -> tuple[float, float, float]:
    """Values of three channels in 0 ... 1 as values in 0 ... 255."""
    red, green, blue = values
    return 255 * red, 255 * green, 255 * blue


def import_timm() -> Any:
    """Import timm.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise InputError(f"This encoder needs timm ({error}): pip install 'siamese-verify[timm]'.") from None
