"""Architectures: families of networks indexed by widths, with their costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.models.layers import build_operation, copy_channels
from nsopt.scaling.cost import CostModel, CountedCost, Operation


class Architecture(Protocol):
    """A network as a function of the widths of its L groups of layers, written by hand or traced.

    layer_names, base_widths: of the groups, in forward order; channels_per_unit: what a width
    counts, a channel or several that only go together; input_shape: of one example, (C, H, W) for
    images.
    """

    @property
    def name(self) -> str: ...
    @property
    def layer_names(self) -> tuple[str, ...]: ...
    @property
    def base_widths(self) -> tuple[int, ...]: ...
    @property
    def channels_per_unit(self) -> tuple[int, ...]: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def latency(self) -> CostModel | None: ...
    @property
    def narrowest(self) -> tuple[int, ...]:
        """The smallest widths that its networks can have."""

    @property
    def layout(self) -> torch.memory_format:
        """In which its networks and their inputs lie on a device."""

    @property
    def streams(self) -> tuple[int, ...]:
        """Per group, the first of those whose channels are added to its own at base widths."""

    def build(self, widths: Sequence[int]) -> nn.Module:
        """A freshly initialised network; NsoptError on a wrong length or a width below 1."""

    def check_widths(self, widths: Sequence[int]) -> tuple[int, ...]:
        """`widths` as a tuple of ints; NsoptError if they cannot be those of a network."""

    def shapes(self, widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Of all tensors in the state of `build(widths)`, which is not built."""

    def cost(self, metric: str) -> CostModel:
        """Exact cost model for `params` or `macs` (of one example); for `latency`, the one it has
        from `with_latency`."""

    def with_latency(self, latency: CostModel) -> Self:
        """The same, with a cost model for `latency`."""

    def summary(self) -> str:
        """What stays as it is, in one line; empty where nothing does."""

    def filter_norms(self, model: nn.Module) -> list[Tensor]:
        """Per group, the L1 norms of what makes each unit of `model`, relative to the mean of the
        layer; of several layers that share a width, their mean: float64 (w_l,)."""

    def inherit(self, model: nn.Module, kept: Sequence[Tensor], widths: Sequence[int]) -> nn.Module:
        """A network of `widths` that starts from the kept units of a trained `model`.

        kept: per group, indices of at most `widths[l]` units. Whatever lies beyond them is freshly
        initialised.
        """


@dataclass(frozen=True)
class TableArchitecture:
    """An `Architecture` made of one table of operations.

    A searched width controls one layer, or, in tied networks, all those that identity shortcuts
    join. layer_names, base_widths: of the groups, in forward order; input_shape: (C, H, W);
    operations: everything with weights, in forward order; gates: per group, the paths of the
    modules behind which its channels are scored and masked (a BatchNorm, or an Identity that marks
    an activation); filters: per group, the paths of the convolutions that make its channels;
    assemble: joins the built operations, given by path, into a module. Of networks with shortcuts,
    identities: paths of the nn.Identity modules that take the place of projections, with the groups
    they lead from and to; stream_reads: where gates leave a residual stream alone, paths of the
    nn.Identity modules through which a group's channels are read from it. latency: its cost model
    in milliseconds, if one was learned.
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
    latency: CostModel | None = None

    @property
    def channels_per_unit(self) -> tuple[int, ...]:
        return (1,) * len(self.base_widths)

    @property
    def narrowest(self) -> tuple[int, ...]:
        return (1,) * len(self.base_widths)

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last

    @property
    def streams(self) -> tuple[int, ...]:
        first = list(range(len(self.base_widths)))
        for source, target in self.identities.values():
            if self.base_widths[source] == self.base_widths[target]:
                one, other = sorted((first[source], first[target]))
                first = [one if place == other else place for place in first]
        return tuple(first)

    def build(self, widths: Sequence[int]) -> nn.Module:
        """A freshly initialised network; NsoptError on a wrong length or a width below 1."""
        w = np.array(self.check_widths(widths), dtype=np.int64)
        return self.assemble(
            {op.name: build_operation(op, w) for op in self.operations if op.exists(w)}
        )

    def check_widths(self, widths: Sequence[int]) -> tuple[int, ...]:
        """`widths` as a tuple of ints; NsoptError if they cannot be those of a network."""
        return checked_widths(self, widths)

    def shapes(self, widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Of all tensors in the state of `build(widths)`, which is not built."""
        with torch.device("meta"):
            return shapes_of(self.build(widths).state_dict())

    def cost(self, metric: str) -> CostModel:
        """Exact cost model for `params` or `macs` (of one image); for `latency`, what it has."""
        if metric == "latency":
            return learned(self.name, self.latency)
        return CountedCost(metric, self.operations, len(self.base_widths))

    def with_latency(self, latency: CostModel) -> Self:
        return replace(self, latency=latency)

    def summary(self) -> str:
        """Nothing stays as it is in a network written by hand."""
        return ""

    def gate_modules(self, model: nn.Module) -> list[list[nn.Module]]:
        """The modules behind which each group's channels are scored and masked."""
        return [[model.get_submodule(path) for path in paths] for paths in self.gates]

    def filter_weights(self, model: nn.Module) -> list[list[Tensor]]:
        """The convolution weights that make each group's channels, shapes (w_l, inputs, k, k)."""
        return [[model.get_parameter(f"{path}.weight") for path in paths] for paths in self.filters]

    def filter_norms(self, model: nn.Module) -> list[Tensor]:
        """Per group, the relative L1 norms of the filters that make its channels, (w_l,)."""
        return [
            torch.stack([relative_norms(weight, 0) for weight in weights]).mean(dim=0)
            for weights in self.filter_weights(model)
        ]

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


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of named tensors."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def learned(name: str, latency: CostModel | None) -> CostModel:
    """The latency model of an architecture; NsoptError if it has none."""
    if latency is None:
        raise NsoptError(
            f"no latency of {name} is known on this device: nsopt.with_latency({name})"
        )
    return latency


def checked_widths(arch: Architecture, widths: Sequence[int]) -> tuple[int, ...]:
    """`widths` as a tuple of ints; NsoptError on a wrong length or a width below 1."""
    if len(widths) != len(arch.base_widths):
        raise NsoptError(f"{arch.name} has {len(arch.base_widths)} widths, got {len(widths)}")
    if any(width != int(width) or width < 1 for width in widths):
        raise NsoptError(f"widths must be integers of at least 1, got {tuple(widths)}")
    return tuple(int(width) for width in widths)


def relative_norms(weight: Tensor, axis: int) -> Tensor:
    """L1 norms of the slices of a weight along `axis` over their mean, float64 (n,)."""
    norms = weight.detach().abs().movedim(axis, 0).flatten(start_dim=1).sum(dim=1).cpu().double()
    return norms / norms.mean()
