"""Modules built from the operations of a cost table, so that cost and network cannot disagree."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.scaling.cost import Operation


def build_operation(operation: Operation, widths: Sequence[int]) -> nn.Module:
    """The module of one operation at `widths`."""
    w = np.asarray(widths, dtype=np.int64)
    inputs, outputs = int(operation.inputs.count(w)), int(operation.outputs.count(w))
    if operation.kind == "norm":
        return nn.BatchNorm2d(outputs)
    if operation.kind == "linear":
        return nn.Linear(inputs, outputs, bias=operation.bias)
    return nn.Conv2d(
        inputs,
        outputs,
        operation.kernel,
        stride=operation.stride,
        padding=operation.kernel // 2,
        bias=operation.bias,
    )


def copy_channels(
    operation: Operation, source: nn.Module, target: nn.Module, kept: Sequence[Tensor]
) -> None:
    """Copy the weights of one operation, restricted to the kept channels.

    source, target: modules of `operation` in two networks; kept: per searched layer, indices into
    the source's channels. Channels of the target beyond the kept ones stay as they were built.
    """
    out, into = (
        slice(None) if channels.layer is None else kept[channels.layer]
        for channels in (operation.outputs, operation.inputs)
    )
    destination = target.state_dict()
    with torch.no_grad():
        for name, value in source.state_dict().items():
            part = value[out] if value.ndim > 0 else value
            part = part[:, into] if part.ndim > 1 else part
            destination[name][tuple(slice(size) for size in part.shape)].copy_(part)
