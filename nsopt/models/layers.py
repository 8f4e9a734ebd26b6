"""Modules built from the operations of a cost table, so that cost and network cannot disagree."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nsopt.scaling.cost import Channels, IntArray, Operation


class OperationNetwork(nn.Module):
    """A network that holds its built operations as submodules, by their names."""

    def __init__(self, operations: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in operations.items():
            self.add_module(name, module)

    def has(self, name: str) -> bool:
        """Whether the operation exists at this network's widths."""
        return name in self._modules

    def run(self, name: str, x: Tensor) -> Tensor:
        """Apply one operation."""
        result: Tensor = getattr(self, name)(x)
        return result


def build_operation(operation: Operation, widths: IntArray) -> nn.Module:
    """The module of one operation at widths (L,)."""
    inputs, outputs = (int(c.count(widths)) for c in (operation.inputs, operation.outputs))
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
        groups=outputs if operation.kind == "depthwise" else 1,
        bias=operation.bias,
    )


def copy_channels(
    operation: Operation, source: nn.Module, target: nn.Module, kept: Sequence[Tensor]
) -> None:
    """Copy the weights of one operation, restricted to the kept channels.

    source, target: modules of `operation` in two networks; kept: per searched layer, indices into
    the source's channels. Channels of the target beyond the kept ones stay as they were built.
    """
    out, into = (_indices(channels, kept) for channels in (operation.outputs, operation.inputs))
    destination = target.state_dict()
    with torch.no_grad():
        for name, value in source.state_dict().items():
            part = value[out] if value.ndim > 0 else value
            if part.ndim > 1 and operation.kind != "depthwise":
                part = part[:, into]
            destination[name][tuple(slice(size) for size in part.shape)].copy_(part)


def _indices(channels: Channels, kept: Sequence[Tensor]) -> slice | Tensor:
    """Of the kept channels; `factor` neighbours follow each channel of a searched layer."""
    if channels.layer is None:
        return slice(None)
    first = kept[channels.layer] * channels.factor
    return (first[:, None] + torch.arange(channels.factor, device=first.device)).flatten()
