"""How nsopt's own networks are made and traced, also those of blocks with shortcuts."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn

from nsopt.models.architecture import Architecture
from nsopt.models.networks import Design, list_members, name_trained
from nsopt.tracing.adaptation import Adaptation
from nsopt.tracing.groups import tie
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.run import LabelledRun

Shortcuts = Literal["identity", "convcut", "tied"]
_LARGE = 64  # pixels on a side, from which on networks halve their maps once more


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


def make_conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, bias: bool = True, groups: int = 1
) -> nn.Conv2d:
    """Return a convolution whose padding keeps the side of the map, but for its stride."""
    padding = kernel // 2
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)


def repeat_strides(
    image_size: int, small: Sequence[int], large: Sequence[int], blocks: Sequence[int]
) -> list[int]:
    """Return the stride of each block: the first of a stage has that of the stage.

    `small` and `large` are strides of stages, for images below and from 64 pixels on a side.
    """
    stages = zip(large if image_size >= _LARGE else small, blocks, strict=True)
    return [s for stride, count in stages for s in (stride, *[1] * (count - 1))]


def trace_blocks(
    name: str,
    shortcuts: Shortcuts,
    make: Callable[..., nn.Module],
    strides: Sequence[int],
    widths: Sequence[int],
    input_shape: tuple[int, ...],
    **known: Any,
) -> Architecture:
    """Return the architecture of blocks, `block1` to `blockN`, each with a shortcut.

    Args:
        name: of the family.
        shortcuts: of stride 1: the identity if widths are equal, always a convolution ("convcut"),
            or the identity between layers that share a width ("tied").
        make: makes a network from strides, and what `Design.make` gets.
        strides: of the blocks.
        widths: of a stem, equally many of each block, and perhaps further layers.
        known: attributes of the design.
    """
    step = len(widths) // len(strides)
    blocks = enumerate(strides)
    ends = {f"block{i + 1}": (step * i, step * i + step) for i, stride in blocks if stride == 1}
    joined = [(a, b) for a, b in ends.values() if shortcuts == "tied" and widths[a] == widths[b]]
    design = Design(
        partial(make, strides),
        group_of=tie(len(widths), joined).tolist(),
        shortcuts={} if shortcuts == "convcut" else ends,
        **known,
    )
    name = name if shortcuts == "identity" else f"{name}-{shortcuts}"
    base = [members[0] for members in list_members(design.group_of, widths)]
    return trace_design(name, design, base, input_shape)


def trace_design(
    name: str, design: Design, widths: Sequence[int], input_shape: tuple[int, ...]
) -> Architecture:
    """Return the architecture of a design. Every width can change, and no code is probed for that.

    `widths`, of each group, are at least 2: a trace does not follow single channels.
    """
    with torch.device("meta"):
        template = design.build(widths, whole=True)
    network = TracedNetwork.of(template, LabelledRun((torch.zeros(2, *input_shape),), (False,)))
    weights = (f"{path}.weight" for path in design.followers)
    ties = tuple(((weight, 1), (weight, 0)) for weight in weights)
    network = network.adapted(Adaptation(followers=ties))
    assert network.family.widths == tuple(widths)
    names = tuple(layers[0] for layers in list_members(design.group_of, design.names))
    arch = Architecture(name, network, names, {}, {}, name_trained(template), design=design)
    arch.cost("macs")  # counts now: later, threads may share the network that it runs
    return arch
