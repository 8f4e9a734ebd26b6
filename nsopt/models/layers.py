"""Modules of nsopt's own networks."""

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional

from nsopt.scaling.cost import IntArray


class NamedNetwork(nn.Module):
    """A network that runs its submodules by their names."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def has(self, name: str) -> bool:
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


def make_conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, bias: bool = True, groups: int = 1
) -> nn.Conv2d:
    """Return a convolution whose padding keeps the side of the map, but for its stride."""
    padding = kernel // 2
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)
