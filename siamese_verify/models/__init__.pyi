from .bundle import Bundle, FaceModel, load_bundle, open_bundle
from .bundle_export import export_bundle
from .engines import OnnxEngine, TorchEngine, embed_faces, embed_photos
from .export import export_network, save_bundle
from .loading import load_checkpoint, load_model, read_origin
from .metadata import (
    PRETRAINED,
    ModelMetadata,
    code_of_others,
    read_operating_points,
    training_of,
)
from .registry import ships_thresholds, store_thresholds

__all__ = [
    "PRETRAINED",
    "Bundle",
    "FaceModel",
    "ModelMetadata",
    "OnnxEngine",
    "TorchEngine",
    "code_of_others",
    "embed_faces",
    "embed_photos",
    "export_bundle",
    "export_network",
    "load_bundle",
    "load_checkpoint",
    "load_model",
    "open_bundle",
    "read_operating_points",
    "read_origin",
    "save_bundle",
    "ships_thresholds",
    "store_thresholds",
    "training_of",
]
