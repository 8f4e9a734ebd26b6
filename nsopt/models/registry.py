"""Architectures by name. A new one is a new row here. Checking a name does not import torch."""

import shlex
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nsopt.errors import NsoptError, unknown_name
from nsopt.settings import checked

if TYPE_CHECKING:
    from nsopt.models.architecture import Architecture

_KEPT = 4  # architectures that are not made again
_CATALOGUES = ("torchvision", "timm")
# A module of nsopt.models, the function that makes the architecture, and its first arguments.
_FACTORIES: dict[str, tuple[str, str, *tuple[str, ...]]] = {
    "vgg11": ("vgg", "vgg11"),
    "mobilenetv2": ("mobilenet", "mobilenetv2", "identity"),
    "mobilenetv2-convcut": ("mobilenet", "mobilenetv2", "convcut"),
    "mobilenetv2-tied": ("mobilenet", "mobilenetv2", "tied"),
    "resnet18": ("resnet", "resnet18", "identity"),
    "resnet18-convcut": ("resnet", "resnet18", "convcut"),
    "resnet18-tied": ("resnet", "resnet18", "tied"),
}


def architectures() -> tuple[str, ...]:
    """Return the names of the built-in architectures.

    Examples:
        >>> nsopt.architectures()
    """
    return tuple(sorted(_FACTORIES))


def is_imported(name: str) -> bool:
    """Return whether a name denotes an imported network."""
    return ":" in name


def is_own(name: str) -> bool:
    """Return whether a name denotes a user's factory, `package.module:factory`."""
    return is_imported(name) and name.partition(":")[0] not in _CATALOGUES


def check_name(name: str) -> None:
    """Raise NsoptError for a name that `get_architecture` does not know."""
    if name not in _FACTORIES and not is_imported(name):
        error = unknown_name("architecture", name, _FACTORIES)
        raise NsoptError(f"{error}; for a function of yours write package.module:function")


@checked
def get_architecture(
    name: str, num_classes: int = 10, image_size: int = 32, in_channels: int = 3
) -> "Architecture":
    """Return an architecture for square images.

    Args:
        name: one of `architectures()`, or `torchvision:NAME`, `timm:NAME` or
            `package.module:factory`.
        num_classes: number of outputs.
        image_size: side of the images, in pixels.
        in_channels: channels of the images.

    Raises:
        NsoptError: for an unknown name, or images that are too small for the network.

    Examples:
        >>> arch = nsopt.get_architecture("vgg11", num_classes=100)
        >>> model = arch.build([width // 2 for width in arch.base_widths])
        >>> print(nsopt.get_architecture("torchvision:resnet18", num_classes=10).explain())
    """
    if is_imported(name):
        from nsopt.models.imported import import_architecture  # noqa: PLC0415

        return import_architecture(name, num_classes, image_size, in_channels)
    return _make_own(name, num_classes, image_size, in_channels)


def stored_architecture(
    stored: str, given: str | None, num_classes: int, image_size: int, in_channels: int
) -> "Architecture":
    """Return the architecture that a file or a storage names.

    nsopt never imports a user's module only because a file names it. Raises NsoptError if the user
    must give the name, or if `given`, the one that the user gave, differs from `stored`.
    """
    if given is None and is_own(stored):
        raise NsoptError(
            f"the stored network {stored!r} would run code of that module: if you trust it, give "
            f"arch={shlex.quote(stored)}"
        )
    if given is None and stored not in _FACTORIES and not is_imported(stored):
        raise NsoptError(
            f"the stored network {stored!r} was traced in Python: load it there with "
            "arch=nsopt.trace(model, inputs), or trace it under the name of a factory: "
            'name="package.module:factory"'
        )
    if given not in (None, stored):
        raise NsoptError(
            f"the stored network is {stored!r}, not {given!r}: give arch={shlex.quote(stored)}"
        )
    return get_architecture(stored, num_classes, image_size, in_channels)


def own_architecture(stored: str, given: str | None, example: Any) -> "Architecture":
    """Return the network of a user's task, `package.module:factory`, traced on inputs of a batch.

    Raises NsoptError unless the user gave the stored name, or if it cannot be traced.
    """
    from nsopt.models.imported import import_for_inputs  # noqa: PLC0415

    if given != stored:
        raise NsoptError(
            f"the stored network is {stored!r}, code of yours: give its name as arch=, too"
        )
    return import_for_inputs(stored, example)


def stored_architectures(
    stored: str, given: str | None, num_classes: int, image_size: int, in_channels: int
) -> "Iterator[Architecture]":
    """Yield the result of `stored_architecture`; before it, if large, a copy without values.

    A small file may name a network of many gigabytes, so the caller first compares its shapes.
    Arguments and errors are those of `stored_architecture`.
    """
    if given is None and is_imported(stored) and not is_own(stored):
        from nsopt.models.imported import import_large_shapes  # noqa: PLC0415

        large = import_large_shapes(stored, num_classes, image_size, in_channels)
        if large is not None:
            yield large
    yield stored_architecture(stored, given, num_classes, image_size, in_channels)


@lru_cache(_KEPT)
def _make_own(name: str, num_classes: int, image_size: int, in_channels: int) -> "Architecture":
    if name not in _FACTORIES:
        raise unknown_name("architecture", name, _FACTORIES)
    if num_classes < 2 or in_channels < 1:
        raise NsoptError("a network needs at least 2 classes and 1 input channel")
    module, function, *options = _FACTORIES[name]
    factory: Callable[..., Architecture]
    factory = getattr(import_module(f"nsopt.models.{module}"), function)
    return factory(*options, num_classes, image_size, in_channels)
