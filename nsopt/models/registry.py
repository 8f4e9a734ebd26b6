"""The architectures by name: a new one is a new row."""

from collections.abc import Callable

from nsopt.errors import NsoptError, unknown_name
from nsopt.models.architecture import Architecture
from nsopt.models.vgg import vgg11

_FACTORIES: dict[str, Callable[[int, int, int], Architecture]] = {"vgg11": vgg11}


def architectures() -> tuple[str, ...]:
    """Names that `get_architecture` knows."""
    return tuple(sorted(_FACTORIES))


def get_architecture(
    name: str, num_classes: int = 10, image_size: int = 32, in_channels: int = 3
) -> Architecture:
    """The architecture `name` for square images of `image_size` pixels.

    Raises NsoptError for an unknown name or an image too small for the network.
    """
    if name not in _FACTORIES:
        raise unknown_name("architecture", name, _FACTORIES)
    if num_classes < 2 or in_channels < 1:
        raise NsoptError("a network needs at least 2 classes and 1 input channel")
    return _FACTORIES[name](num_classes, image_size, in_channels)
