"""An architecture: a family of networks indexed by widths, with its costs and its gates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.models.layers import build_operation, copy_channels
from nsopt.scaling.cost import CountedCost, Operation


@dataclass(frozen=True)
class Architecture:
    """A network as a function of the widths of its L searched groups of layers.

    A searched width controls one layer, or, in tied networks, all those that identity shortcuts
    join. layer_names, base_widths: of the groups, in forward order; input_shape: (C, H, W);
    operations: everything with weights, in forward order; gates: per group, the paths of the
    modules behind which its channels are scored and masked (a BatchNorm, or an Identity that marks
    an activation); filters: per group, the paths of the convolutions that make its channels;
    assemble: joins the built operations, given by path, into a module. Of networks with shortcuts,
    identities: paths of the nn.Identity modules that take the place of projections, with the groups
    they lead from and to; stream_reads: where gates leave a residual stream alone, paths of the
    nn.Identity modules through which a group's channels are read from it.
    """

    name: str
    layer_names: tuple[str, ...]
    base_widths: tuple[int, ...]
    input_shape: tuple[int, int, int]
    num_classes: int
    operations: tuple[Operation, ...]
    gates: tuple[tuple[str, ...], ...]
    filters: tuple[tuple[str, ...], ...]
    assemble: Callable[[dict[str, nn.Module]], nn.Module]
    identities: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    stream_reads: Mapping[str, int] = field(default_factory=dict)

    def build(self, widths: Sequence[int]) -> nn.Module:
        """A freshly initialised network; NsoptError on a wrong length or a width below 1."""
        w = np.array(self.check_widths(widths), dtype=np.int64)
        return self.assemble(
            {op.name: build_operation(op, w) for op in self.operations if op.exists(w)}
        )

    def check_widths(self, widths: Sequence[int]) -> tuple[int, ...]:
        """`widths` as a tuple of ints; NsoptError if they cannot be those of a network."""
        if len(widths) != len(self.base_widths):
            raise NsoptError(f"{self.name} has {len(self.base_widths)} widths, got {len(widths)}")
        if any(width != int(width) or width < 1 for width in widths):
            raise NsoptError(f"widths must be integers of at least 1, got {tuple(widths)}")
        return tuple(int(width) for width in widths)

    def cost(self, metric: str) -> CountedCost:
        """Exact cost model for `params` or `macs` (of one image)."""
        return CountedCost(metric, self.operations, len(self.base_widths))

    def gate_modules(self, model: nn.Module) -> list[list[nn.Module]]:
        """The modules behind which each group's channels are scored and masked."""
        return [[model.get_submodule(path) for path in paths] for paths in self.gates]

    def filter_weights(self, model: nn.Module) -> list[list[Tensor]]:
        """The convolution weights that make each group's channels, shapes (w_l, inputs, k, k)."""
        return [[model.get_parameter(f"{path}.weight") for path in paths] for paths in self.filters]

    def inherit(self, model: nn.Module, kept: Sequence[Tensor], widths: Sequence[int]) -> nn.Module:
        """A network of `widths` that starts from the kept channels of a trained `model`.

        kept: per group, indices of at most `widths[l]` channels of `model`. Channels beyond the
        kept ones, and projections that `model` does not have, are freshly initialised.
        """
        smaller = self.build(widths).to(next(model.parameters()).device)
        modules, sources = dict(smaller.named_modules()), dict(model.named_modules())
        for operation in self.operations:
            if operation.name in modules and operation.name in sources:
                copy_channels(operation, sources[operation.name], modules[operation.name], kept)
        return smaller
