"""Swap the faster kernels into a network while it is trained.

Users get plain modules of torch.nn, on which other tools work.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from nsopt.training.kernels.batch_norm import BatchNorm2d
from nsopt.training.kernels.convolution import Conv2d, DepthwiseConv2d


@contextmanager
def fast_kernels(model: nn.Module) -> Iterator[None]:
    """Use nsopt's convolutions and BatchNorms in `model` inside the block.

    They have the same parameters, buffers and attributes, and compute the same. Subclasses of
    PyTorch's modules do not change.
    """
    changed = []
    for module in model.modules():
        fast = _choose_class(module)
        if fast is not None:
            changed.append((module, type(module)))
            module.__class__ = fast
    try:
        yield
    finally:
        for module, plain in changed:
            module.__class__ = plain


def _choose_class(module: nn.Module) -> type[nn.Module] | None:
    if type(module) is nn.BatchNorm2d:
        usual = module.affine and module.track_running_stats and module.momentum is not None
        return BatchNorm2d if usual else None
    if type(module) is nn.Conv2d:
        if module.groups == 1:
            return Conv2d
        if module.groups == module.in_channels == module.out_channels:
            return DepthwiseConv2d
    return None
