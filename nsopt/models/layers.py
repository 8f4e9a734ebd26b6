"""Build modules from the operations of a cost table, so that cost and network cannot disagree."""

from collections.abc import Sequence

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional

from nsopt.scaling.cost import Channels, IntArray, Operation


class OperationNetwork(nn.Module):
    """A network whose operations are submodules, by their names."""

    def __init__(self, operations: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in operations.items():
            self.add_module(name, module)

    def has(self, name: str) -> bool:
        """Return whether the operation exists at this network's widths."""
        return name in self._modules

    def run(self, name: str, x: Tensor) -> Tensor:
        result: Tensor = getattr(self, name)(x)
        return result

    def __prepare_scriptable__(self) -> nn.Module:
        """Return the network without look-ups by name, which torch.jit.script cannot compile."""
        return torch.fx.symbolic_trace(self)


class Selection(nn.Module):
    """Selects channels of a tensor (B, C, H, W) with a 1x1 convolution by a matrix of 0 and 1.

    This is faster, forwards and backwards, than gathering from channels-last memory.

    Args:
        source: for each output channel, the index of the input channel, or -1 for zeros.
        channels: number of input channels.
    """

    def __init__(self, source: IntArray, channels: int) -> None:
        super().__init__()
        matrix = torch.zeros(len(source), channels, 1, 1)
        (there,) = (source >= 0).nonzero()
        matrix[torch.from_numpy(there), torch.from_numpy(source[there])] = 1
        self.register_buffer("matrix", matrix, persistent=False)
        self.matrix: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.matrix.to(x.dtype))


def build_operation(operation: Operation, widths: IntArray) -> nn.Module:
    """Build the module of an operation at widths (L,)."""
    inputs, outputs = (int(c.count(widths)) for c in (operation.inputs, operation.outputs))
    if operation.kind == "norm":
        return nn.BatchNorm2d(outputs)
    if operation.kind == "linear":
        return nn.Linear(inputs, outputs, bias=operation.bias)
    depthwise = operation.kind == "depthwise"
    return nn.Conv2d(
        inputs,
        outputs,
        operation.kernel,
        stride=operation.stride,
        padding=operation.kernel // 2,
        groups=outputs if depthwise else 1,
        bias=operation.bias,
    )


def copy_channels(
    operation: Operation, source: nn.Module, target: nn.Module, kept: Sequence[Tensor]
) -> None:
    """Copy the weights of one operation's kept channels.

    Args:
        source: its module in one network.
        target: its module in another network. Channels without a source do not change.
        kept: per searched layer, indices into the source's channels.
    """
    destination = target.state_dict()
    with torch.no_grad():
        for name, value in source.state_dict().items():
            part = slice_channels(operation, value, kept, kept)
            destination[name][tuple(slice(size) for size in part.shape)].copy_(part)


def slice_channels(
    operation: Operation, value: Tensor, read: Sequence[Tensor], written: Sequence[Tensor]
) -> Tensor:
    """Slice a parameter, buffer or momentum of an operation to fewer channels.

    Args:
        value: its tensor.
        read: per searched layer, indices of the kept channels that operations read.
        written: per searched layer, indices of the kept channels that convolutions write.
    """
    if value.ndim == 0:
        return value
    outputs = list_indices(operation.outputs, read if operation.kind == "norm" else written)
    if value.ndim == 1 or operation.kind == "depthwise":
        return value[outputs]
    return value[outputs][:, list_indices(operation.inputs, read)]


def list_indices(channels: Channels, kept: Sequence[Tensor]) -> slice | Tensor:
    """Return the indices of the kept channels: `channels.factor` for each filter of a layer."""
    if channels.layer is None:
        return slice(None)
    first = kept[channels.layer] * channels.factor
    return (first[:, None] + torch.arange(channels.factor, device=first.device)).flatten()
