"""Encoders from configurations and from any `torch.nn.Module`; code of others is imported only with permission."""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import nn

from siamese_verify.encoders.encoder import Encoder
from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec

OF_ARRAYS = ("shape", "mean", "std", "dtype")
CROP = "siamese_verify.structures.Crop"
# Of an encoder, beside those of its module.
SETTINGS = ("size", "mean", "std", "crop", "shape", "dtype", "normalize", "embedding_size")


def wrap_module(
    module: nn.Module, input_spec: InputSpec, embedding_size: int | None = None, normalize: bool = True
) -> Encoder:
    """Make an encoder of a module: it then standardizes pixels, and can be trained, measured and saved like any other.

    Args:
        module: standardized float images of `input_spec`, (B,3,S,S), or arrays, (B,*shape), -> (B,D).
        input_spec: of the images or arrays.
        embedding_size: D; by default found by running the module on two black images.
        normalize: give embeddings of unit length.

    Raises:
        InputError: the module gives no (B,D) tensor for such images, or another D.
    """
    name = type(module).__name__
    found = find_embedding_size(module, input_spec, name)
    if embedding_size not in (None, found):
        raise InputError(
            f"{name} gives embeddings of {found} dimensions, not {embedding_size}: correct embedding_size."
        )
    return Encoder(module, found, input_spec, normalize)


def find_embedding_size(module: nn.Module, input_spec: InputSpec, name: str) -> int:
    """Length of the embeddings that a module gives, by running it on two black images as in evaluation.

    Raises:
        InputError: it cannot be run on them, or does not give a (B,D) tensor.
    """
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), None)
    images = torch.zeros(2, *input_spec.shape, device=device)
    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad():
            embeddings = module.eval()(images)
    except Exception as error:  # code of others raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name} cannot be run on images of shape {tuple(images.shape)}: {reason}") from error
    finally:
        for part, training in modes:
            part.training = training
    shape = tuple(embeddings.shape) if isinstance(embeddings, torch.Tensor) else type(embeddings).__name__
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != len(images):
        raise InputError(
            f"{name} gives {shape} for images of shape {tuple(images.shape)}, an encoder gives (B, D): pool or flatten "
            "its features."
        )
    return shape[1]


def encoder_class(configuration: Mapping[str, Any]) -> Callable[..., Encoder]:
    """Return the class of `siamese_verify.encoders` that a configuration names; nothing is imported for it.

    Raises:
        InputError: it names anything else.
    """
    from siamese_verify import encoders

    target = str(configuration.get("_target_") or "")
    if not is_ours(target) or target.rpartition(".")[2] not in encoders.__all__:
        raise _untrusted(target)
    found: Any = getattr(encoders, target.rpartition(".")[2])
    if found is Encoder or not (inspect.isclass(found) and issubclass(found, Encoder)):
        raise _untrusted(target)
    return found


def is_ours(target: str) -> bool:
    """Whether a target is of `siamese_verify.encoders`."""
    return target.rpartition(".")[0] == "siamese_verify.encoders"


def check_encoder(configuration: Mapping[str, Any]) -> None:
    """Check that the class of an encoder exists; that of others is imported.

    Raises:
        InputError: it does not.
    """
    target = str(configuration.get("_target_") or "")
    if is_ours(target):
        encoder_class(configuration)
    else:
        _locate(target, [target])


def create_encoder(configuration: Mapping[str, Any], trusted: str | Collection[str] = ()) -> Encoder:
    """Create an encoder with random weights.

    Args:
        configuration: `_target_` and arguments, in which nested targets are created first. A target of others may be a
            `torch.nn.Module`, which `wrap_module` makes an encoder with the settings `SETTINGS`; those that the target
            names among its own arguments it gets as well, unless they are None.
        trusted: targets of others that may be imported and called, such as `my_package.MyNet`, or a single one.

    Raises:
        InputError: another target, one that cannot be imported, wrong arguments, or no module.
    """
    trusted = (trusted,) if isinstance(trusted, str) else trusted
    target = str(configuration.get("_target_") or "")
    if is_ours(target):
        encoder = _create(configuration, trusted)
        assert isinstance(encoder, Encoder)
        return encoder
    creator = _locate(target, trusted)
    values = _arguments(configuration, trusted)
    settings = {name: values.pop(name) for name in SETTINGS if name in values}
    settings = {name: value for name, value in settings.items() if value is not None}
    try:
        named = {*inspect.signature(creator).parameters}
    except ValueError:  # of C
        named = set()
    own = {name: value for name, value in settings.items() if name in named}
    module = _call(target, creator, values | own)
    if isinstance(module, Encoder):
        _compare(target, module, settings)
        return module
    if not isinstance(module, nn.Module):
        raise InputError(f"{target} gives {type(module).__name__}, an encoder is a torch.nn.Module.")
    if "shape" in settings:
        spec = InputSpec.of_arrays(**{name: settings[name] for name in OF_ARRAYS if name in settings})
    elif "size" in settings:
        spec = InputSpec(**{name: settings[name] for name in ("size", "mean", "std", "crop") if name in settings})
    else:
        raise InputError(f"The encoder {target} needs the side of its input in pixels: set encoder.size.")
    return wrap_module(module, spec, settings.get("embedding_size"), settings.get("normalize", True))


def _compare(target: str, encoder: Encoder, settings: Mapping[str, Any]) -> None:
    """Check that an encoder that describes itself has the given settings."""
    spec = encoder.input_spec
    actual = {**vars(spec), "normalize": encoder.normalize, "embedding_size": encoder.embedding_size}
    for name, value in settings.items():
        if actual[name] != (tuple(value) if isinstance(value, list) else value):
            raise InputError(f"The encoder {target} has {name} {actual[name]}, not {value}: correct encoder.{name}.")


def _create(node: Any, trusted: Collection[str]) -> Any:
    """What a part of a configuration describes: objects for targets, else the value itself."""
    if isinstance(node, Mapping):
        if "_target_" not in node:
            return {name: _create(value, trusted) for name, value in node.items()}
        target, arguments = str(node["_target_"]), _arguments(node, trusted)
        if target == CROP:
            return _call(target, Crop, arguments)
        if is_ours(target):
            if arguments.get("pretrained"):
                arguments["pretrained"] = None  # not downloaded: its weights come from elsewhere
            return _call(target, encoder_class(node), arguments)
        creator = _locate(target, trusted)
        return functools.partial(creator, **arguments) if node.get("_partial_") else _call(target, creator, arguments)
    if isinstance(node, list | tuple):
        return [_create(value, trusted) for value in node]
    return node


def _arguments(node: Mapping[str, Any], trusted: Collection[str]) -> dict[str, Any]:
    """Arguments of a target."""
    if unknown := [name for name in node if name.startswith("_") and name not in ("_target_", "_partial_")]:
        raise InputError(
            f"The setting {unknown[0]} of {node['_target_']} is not supported in an encoder: leave it out."
        )
    inner = node.get("encoder")
    if is_ours(str(node["_target_"])) and isinstance(inner, Mapping) and "encoder" in inner:
        raise InputError("An encoder may wrap one encoder, not a wrapped one.")
    values = {name: value for name, value in node.items() if not name.startswith("_")}
    if isinstance(crop := values.get("crop"), Mapping):
        values["crop"] = {**crop, "_target_": CROP}
    return {name: _create(value, trusted) for name, value in values.items()}


def _locate(target: str, trusted: Collection[str]) -> Callable[..., Any]:
    """Import a class or function of others.

    Raises:
        InputError: it is not trusted, or missing.
    """
    if target not in trusted:
        raise _untrusted(target)
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"The encoder {target} cannot be imported ({error}): install its package, or set PYTHONPATH to its folder."
        ) from error
    if not callable(found):
        raise InputError(f"The encoder {target} is a {type(found).__name__}: name a class or a function.")
    return cast("Callable[..., Any]", found)


def _call(target: str, creator: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        inspect.signature(creator).bind(**arguments)
    except TypeError as error:
        hint = "" if is_ours(target) or target == CROP else "; encoder=module starts without settings of other encoders"
        raise InputError(f"{target} cannot be created as configured ({error}): correct its settings{hint}.") from None
    except ValueError:  # of C
        pass
    return creator(**arguments)


def _untrusted(target: str) -> InputError:
    if not target:
        return InputError("The class of the encoder is not named: give the module itself, in Python as encoder=MODULE.")
    return InputError(
        f"The encoder {target!r} is not one of siamese_verify.encoders, and code of others is never imported unasked: "
        f"if you trust it, add trust_code={target} (an option --trust-code elsewhere), else use a bundle on the engine "
        "onnx."
    )
