"""Importing torchvision beside a build of torch that lacks its compiled operators.

A torchvision wheel made for CUDA, next to a CPU build of torch, cannot load its extension; its
import then fails where it registers shape functions for operators nobody declared. Declaring
their schemas first lets the import pass; the readers of data sets use none of them.
"""

from typing import Any

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a declaration lives as long as its library object


def torchvision_datasets() -> Any:
    """The module `torchvision.datasets`."""
    try:
        from torchvision import datasets  # noqa: PLC0415
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return datasets
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _libraries.append(library)
    from torchvision import datasets  # noqa: PLC0415

    return datasets
