"""The compiled operators of detectors, in Python, where torchvision cannot load its own."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from nsopt.torchvision_import import import_torchvision

_CROP = (
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, "
    "int pooled_width, int sampling_ratio, bool aligned) -> Tensor"
)


@cache
def install_operators() -> Any:
    """Define `nms` and `roi_align` if torchvision lacks them; return what holds them."""
    extension = import_torchvision("extension")
    if extension._has_ops():
        return None
    crops = import_torchvision("ops.roi_align")
    inner = crops._roi_align.__wrapped__  # before it is compiled
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(_CROP)
    library.impl("nms", suppress, "CPU")
    library.impl("roi_align", inner, "CPU")

    def crop(x: Tensor, rois: Tensor, _: float, height: int, width: int, *__: Any) -> Tensor:
        return x.new_empty(len(rois), x.shape[1], height, width)

    torch.library.register_fake("torchvision::roi_align", crop, lib=library)
    extension._has_ops = crops._has_ops = has_operators
    return library


def has_operators() -> bool:
    """Return True, in code that TorchScript compiles."""
    return True


def suppress(boxes: Tensor, scores: Tensor, most: float) -> Tensor:
    """Return the boxes that overlap by at most `most` with every better one, best first."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order, kept = scores.argsort(descending=True, stable=True), [torch.zeros(0, dtype=torch.int64)]
    while len(order):
        best = order[0]
        kept.append(best[None])
        first = torch.maximum(boxes[best, :2], boxes[order, :2])
        last = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        common = (last - first).clamp(min=0).prod(1)
        order = order[(common / (areas[best] + areas[order] - common) <= most) & (order != best)]
    return torch.cat(kept)
