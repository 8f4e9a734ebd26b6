"""Import networks by name: `torchvision:NAME`, `timm:NAME`, or `package.module:factory`."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError, unknown_name
from nsopt.models.tracing.architecture import TracedArchitecture
from nsopt.models.tracing.labels import TraceError
from nsopt.models.tracing.trace import trace
from nsopt.torchvision_import import import_torchvision

_MUCH_BYTES = 2**28
_SEED = 0  # of the template, whose values show how its networks are initialised


def import_architecture(
    name: str, num_classes: int, image_size: int, in_channels: int, device: str = "cpu"
) -> TracedArchitecture:
    """Import and trace a network for images of this shape.

    A factory is called with `num_classes` if it has such a parameter. Raises NsoptError if there is
    no such network, or if it cannot be traced.

    device: `meta` makes a network without values, which takes no memory.
    """
    factory = network_factory(name)
    place = torch.device(device) if device == "meta" else nullcontext()
    with torch.random.fork_rng(devices=[]), place:
        torch.default_generator.manual_seed(_SEED)
        module = factory(num_classes)
    example = torch.empty(2, in_channels, image_size, image_size)  # whose values nobody reads
    try:
        return trace(module, example, name)
    except TraceError as error:
        shape = f"{in_channels}x{image_size}x{image_size}"
        raise NsoptError(f"{name} cannot be traced on images of {shape}: {error}") from None


def needs_much_memory(name: str, num_classes: int) -> bool:
    """Return whether the network takes more than a quarter of a gigabyte. Raises NsoptError."""
    factory = network_factory(name)
    with torch.device("meta"):
        try:
            module = factory(num_classes)
        except (NotImplementedError, RuntimeError):  # it reads values while it is made
            return False
    tensors: Iterable[Tensor] = module.state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) > _MUCH_BYTES


def network_factory(name: str) -> Callable[[int], nn.Module]:
    """Return a function that makes the network for a number of classes. Raises NsoptError."""
    package, _, word = name.partition(":")
    if package == "torchvision":
        return _from_torchvision(word)
    if package == "timm":
        return _from_timm(word)
    try:
        found = getattr(import_module(package), word)
    except (ImportError, AttributeError, ValueError) as error:
        raise NsoptError(f"cannot import the network {name!r}: {error}") from None
    takes_classes = "num_classes" in inspect.signature(found).parameters

    def make(num_classes: int) -> nn.Module:
        made = found(num_classes=num_classes) if takes_classes else found()
        if not isinstance(made, nn.Module):
            raise NsoptError(f"{name} makes a {type(made).__name__}, not a torch.nn.Module")
        return made

    return make


def _from_torchvision(word: str) -> Callable[[int], nn.Module]:
    models = import_torchvision("models")
    if word not in models.list_models():
        raise unknown_name("network of torchvision", word, models.list_models())
    more = {"init_weights": True} if word in ("googlenet", "inception_v3") else {}

    def make(num_classes: int) -> nn.Module:
        model: nn.Module = models.get_model(word, weights=None, num_classes=num_classes, **more)
        return model

    return make


def _from_timm(word: str) -> Callable[[int], nn.Module]:
    import_torchvision("ops")  # timm imports it
    try:
        timm: Any = import_module("timm")
    except ImportError:
        raise NsoptError("timm is not installed: pip install timm") from None
    if word not in timm.list_models():
        raise unknown_name("network of timm", word, timm.list_models())

    def make(num_classes: int) -> nn.Module:
        model: nn.Module = timm.create_model(word, pretrained=False, num_classes=num_classes)
        return model

    return make
