"""Import torchvision next to a build of torch that cannot load its compiled operators.

A torchvision wheel for CUDA cannot load its extension next to a CPU build of torch. Its import then
fails, because it registers shape functions for undeclared operators. Declaring their schemas first
lets it succeed. Data sets and classifiers do not use these operators.
"""

from importlib import import_module
from typing import Any

import torch

from nsopt.errors import short_reason

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a declaration lives as long as its library object


def describe_torchvision() -> str:
    """Return whether `import torchvision` works, and what nsopt does if not."""
    try:
        import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        return (
            f"not by itself ({short_reason(error)}): torchvision and torch are of different "
            "builds. nsopt loads it without its compiled operators"
        )
    return "yes"


def import_torchvision(part: str) -> Any:
    """Import the module `torchvision.<part>`."""
    try:
        return import_module(f"torchvision.{part}")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _libraries.append(library)
    return import_module(f"torchvision.{part}")
