"""Importing torchvision beside a build of torch that lacks its compiled operators.

A torchvision wheel made for CUDA, next to a CPU build of torch, cannot load its extension; its
import then fails where it registers shape functions for operators nobody declared. Declaring
their schemas first lets the import pass; readers of data sets and classifiers use none of them.
"""

from importlib import import_module
from typing import Any

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a declaration lives as long as its library object


def import_torchvision(part: str) -> Any:
    """The module `torchvision.<part>`."""
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
