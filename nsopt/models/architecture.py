"""Architectures: families of networks indexed by widths, with their costs."""

from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nsopt.arguments import checked
from nsopt.errors import NsoptError, shorten
from nsopt.models.layers import build_operation, copy_channels
from nsopt.models.shortcuts import leaders, tie
from nsopt.models.tracing.originals import unwrapped
from nsopt.scaling.cost import (
    Channels,
    CostModel,
    CountedCost,
    IntArray,
    Operation,
    Widths,
)

Kept = Sequence[Sequence[int] | NDArray[Any] | Tensor]  # per group


class Architecture(Protocol):
    """A family of networks, indexed by the widths of its L groups of layers.

    Attributes:
        name: the name that `get_architecture` takes.
        layer_names: names of the groups, in forward order.
        base_widths: widths of the original network, L integers.
        channels_per_unit: channels per unit of width; several if they can only change together.
        input_shape: shape of one example, (C, H, W) for images.
        num_classes: number of outputs.
        latency: cost model in milliseconds, or None before `nsopt.with_latency`.
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
    def rigid(self) -> tuple[bool, ...]:
        """Per group, whether pruning cannot remove its units one by one."""

    @property
    def layout(self) -> torch.memory_format:
        """Memory layout of its networks and their inputs."""

    @property
    def streams(self) -> tuple[int, ...]:
        """Per group, the first group whose channels are added to its own at base widths."""

    @property
    def conditional(self) -> Mapping[str, tuple[Channels, Channels]]:
        """By path, modules that exist only if two numbers of channels differ; and these two."""

    @property
    def template(self) -> nn.Module:
        """The network of base widths from which others are made. It never changes."""

    @property
    def written(self) -> Collection[tuple[str, str]]:
        """Paths of modules and names of attributes that its networks set as they run."""

    @property
    def evaluates_only(self) -> bool:
        """Whether its networks are known to run in evaluation mode alone."""

    @property
    def batch_doubt(self) -> str:
        """One line if the first dimension of the inputs may be no batch, else an empty string."""

    def build(self, widths: Widths) -> nn.Module:
        """Return a newly initialised network. Raises NsoptError for invalid widths."""

    def check_widths(self, widths: Widths) -> tuple[int, ...]:
        """Return `widths` as a tuple of ints. Raises NsoptError for invalid ones."""

    def shapes(self, widths: Widths) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all tensors in the state of a network, without building it."""

    def cost(self, metric: str) -> CostModel:
        """Return the cost model for a metric.

        Args:
            metric: `params` or `macs` (of one example), both exact; or `latency` (milliseconds), as
                `nsopt.with_latency` learned it.

        Raises:
            NsoptError: for an unknown metric, or for `latency` without a latency model.
        """

    def with_latency(self, latency: CostModel | None) -> Self:
        """Return a copy with a cost model for `latency`, or without one."""

    def summary(self) -> str:
        """Return one line about layers that keep their widths, or an empty string."""

    def filter_norms(self, model: nn.Module) -> list[Tensor]:
        """Return the L1 norms of each group's units in `model`, float64 (w_l,).

        Norms are divided by the layer's mean, and averaged over layers that share a width.

        Examples:
            >>> norms = arch.filter_norms(model)
            >>> kept = [norm.topk(len(norm) // 2).indices.sort().values for norm in norms]
        """

    def inherit(self, model: nn.Module, kept: Kept, widths: Widths) -> nn.Module:
        """Return a network of `widths` with the kept units of a trained `model`.

        Args:
            model: a trained network of this family.
            kept: per group, ascending indices of at most `widths[l]` units, or a boolean mask. All
                others are newly initialised.
            widths: the widths of the new network.

        Examples:
            >>> kept = [torch.arange(width // 2) for width in arch.base_widths]
            >>> half = arch.inherit(model, kept, [len(units) for units in kept])
        """

    def prune(self, model: nn.Module, kept: Kept) -> nn.Module:
        """Return a copy of `model` that has only some units of each group.

        Args:
            model: a network of this family.
            kept: per group, ascending indices of the units to keep, or a boolean mask of all units.
                Rigid groups keep all.

        Raises:
            NsoptError: for invalid indices, or a network of another family.

        Examples:
            >>> arch = nsopt.trace(model, torch.zeros(2, 1, 32, 32))
            >>> smaller = arch.prune(model, [range(width // 2) for width in arch.base_widths])
        """


@dataclass(frozen=True)
class TableArchitecture:
    """An `Architecture` made from one table of operations.

    A searched width controls one layer, or in tied networks all layers that identity shortcuts
    join.

    Attributes:
        operations: all operations with weights, in forward order.
        gates: per group, the paths of the modules after which its channels are scored and masked (a
            BatchNorm, or an Identity that marks an activation).
        filters: per group, the paths of the convolutions that make its channels.
        assemble: makes the network from the built operations, by path.
        identities: paths of the nn.Identity modules that replace projections on shortcuts, with the
            groups before and after them.
        stream_reads: paths of the nn.Identity modules through which layers read channels from a
            residual stream, with the groups of these channels. Gates do not change the stream.
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

    def __repr__(self) -> str:
        return f"TableArchitecture(name={self.name!r}, base_widths={self.base_widths})"

    @property
    def channels_per_unit(self) -> tuple[int, ...]:
        return (1,) * len(self.base_widths)

    narrowest = channels_per_unit

    @property
    def rigid(self) -> tuple[bool, ...]:
        return (False,) * len(self.base_widths)

    @property
    def conditional(self) -> Mapping[str, tuple[Channels, Channels]]:
        return {o.name: o.unless_equal for o in self.operations if o.unless_equal is not None}

    @cached_property
    def template(self) -> nn.Module:
        return build_to_fill(self, self.base_widths)

    written = frozenset[tuple[str, str]]()
    evaluates_only = False
    batch_doubt = ""

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last

    @property
    def streams(self) -> tuple[int, ...]:
        base = self.base_widths
        equal = [(a, b) for a, b in self.identities.values() if base[a] == base[b]]
        group_of = tie(len(base), equal).tolist()
        first = leaders(group_of, range(len(base)))
        return tuple(first[group] for group in group_of)

    def build(self, widths: Widths) -> nn.Module:
        w = np.array(self.check_widths(widths), dtype=np.int64)
        return self.assemble(
            {op.name: build_operation(op, w) for op in self.operations if op.exists(w)}
        )

    def check_widths(self, widths: Widths) -> tuple[int, ...]:
        return read_widths(self, widths)

    def shapes(self, widths: Widths) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            return shapes_of(self.build(widths).state_dict())

    @checked
    def cost(self, metric: str) -> CostModel:
        if metric == "latency":
            return require_latency(self.name, self.latency)
        return CountedCost(metric, self.operations, len(self.base_widths))

    def with_latency(self, latency: CostModel | None) -> Self:
        return replace(self, latency=latency)

    def summary(self) -> str:
        return ""

    def gate_modules(self, model: nn.Module) -> list[list[nn.Module]]:
        """Return the modules after which each group's channels are scored and masked."""
        return [[model.get_submodule(path) for path in paths] for paths in self.gates]

    def filter_weights(self, model: nn.Module) -> list[list[Tensor]]:
        """Return the weights that make each group's channels, shapes (w_l, inputs, k, k)."""
        return [[model.get_parameter(f"{path}.weight") for path in paths] for paths in self.filters]

    def filter_norms(self, model: nn.Module) -> list[Tensor]:
        return [
            torch.stack([relative_norms(weight, 0) for weight in weights]).mean(dim=0)
            for weights in self.filter_weights(self._read_model(model))
        ]

    def inherit(self, model: nn.Module, kept: Kept, widths: Widths) -> nn.Module:
        """See `Architecture`. Projections that `model` does not have are newly initialised.

        Raises NsoptError if `model` is of another family, or for invalid indices or widths.
        """
        model = self._read_model(model)
        chosen = read_kept(self, [len(first) for first, *_ in self.filter_weights(model)], kept)
        check_room(self, chosen, self.check_widths(widths))
        smaller = build_to_fill(self, widths).to(next(model.parameters()).device)
        indices = [torch.from_numpy(units) for units in chosen]
        modules, sources = dict(smaller.named_modules()), dict(model.named_modules())
        for operation in self.operations:
            if operation.name in modules and operation.name in sources:
                copy_channels(operation, sources[operation.name], modules[operation.name], indices)
        return smaller

    def prune(self, model: nn.Module, kept: Kept) -> nn.Module:
        widths = [len(first) for first, *_ in self.filter_weights(self._read_model(model))]
        chosen = read_kept(self, widths, kept)
        return self.inherit(model, chosen, [len(units) for units in chosen])

    def _read_model(self, model: nn.Module) -> nn.Module:
        """Return the network that `model` is or wraps. Raises NsoptError for another family."""
        model = unwrapped(model)
        names = dict(model.named_modules())
        for operation in self.operations:
            if operation.name not in names and operation.name not in self.conditional:
                raise NsoptError(f"the model is no {self.name}: it has no module {operation.name}")
        return model


def build_to_fill(arch: Architecture, widths: Widths) -> nn.Module:
    """Build a network into which weights are copied, without changing torch's random numbers."""
    with torch.random.fork_rng(devices=[]):
        return arch.build(widths)


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a state, which may hold other objects, too."""
    return {n: tuple(tensor.shape) for n, tensor in state.items() if isinstance(tensor, Tensor)}


def require_latency(name: str, latency: CostModel | None) -> CostModel:
    """Return the latency model of an architecture. Raises NsoptError if it has none."""
    if latency is None:
        raise NsoptError(f"{name} has no latency model: call nsopt.with_latency(arch) first")
    return latency


def read_widths(arch: Architecture, widths: Widths) -> tuple[int, ...]:
    """Return `widths` as a tuple of ints. Raises NsoptError for a wrong length or width."""
    try:
        integers, given = tuple(map(int, widths)), tuple(widths)
    except (TypeError, ValueError, OverflowError):
        raise NsoptError(f"widths must be a list of integers, not {shorten(widths)}") from None
    if len(integers) != len(arch.base_widths):
        raise NsoptError(
            f"{arch.name} has {len(arch.base_widths)} widths, got {len(integers)}: give one for "
            "each layer name"
        )
    if integers != given or min(integers) < 1:
        raise NsoptError(f"widths must be integers of at least 1, got {given}")
    return integers


def read_kept(arch: Architecture, widths: Sequence[int], kept: Kept) -> list[IntArray]:
    """Return the units to keep of a network of `widths` as indices.

    Raises NsoptError for invalid ones.
    """
    given = len(kept) if isinstance(kept, Sized) else shorten(kept)
    if given != len(arch.layer_names):
        raise NsoptError(
            f"{arch.name} has {len(arch.layer_names)} groups, got {given}: give one for each layer "
            "name"
        )
    groups = zip(arch.layer_names, widths, kept, strict=True)
    return [_read_indices(name, width, units) for name, width, units in groups]


def _read_indices(name: str, width: int, units: Sequence[int] | NDArray[Any] | Tensor) -> IntArray:
    array = np.asarray(units.cpu() if isinstance(units, Tensor) else units)
    if array.dtype == np.bool_ and array.shape == (width,):
        array = np.flatnonzero(array)
    if not array.size:
        raise NsoptError(f"give at least one unit of {name}")
    if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
        indices: IntArray = array.astype(np.int64)
        if indices[0] >= 0 and indices[-1] < width and (np.diff(indices) > 0).all():
            return indices
    raise NsoptError(
        f"the units to keep of {name} must be ascending integers below {width}, or a mask of "
        f"{width} booleans"
    )


def check_room(arch: Architecture, chosen: Sequence[IntArray], widths: Sequence[int]) -> None:
    """Raise NsoptError if a network of `widths` has no room for the chosen units."""
    for name, indices, width in zip(arch.layer_names, chosen, widths, strict=True):
        if len(indices) > width:
            raise NsoptError(f"give at most {width} units of {name}, got {len(indices)}")


def check_has_weights(model: nn.Module) -> None:
    """Raise NsoptError if tensors have no values: lazy modules, or the meta device."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            raise NsoptError(f"{name} of the model has no values: give a network with its weights")


def check_finite(model: nn.Module, origin: str) -> None:
    """Raise NsoptError if a weight is NaN or infinite, or a buffer NaN; masks may be infinite."""
    weights = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):  # a module may add anything
            continue
        if tensor.isnan().any() or (name in weights and tensor.isinf().any()):
            raise NsoptError(
                f"{name} of {origin} has values that are NaN or infinite: give weights of a "
                "training that ended well"
            )


def relative_norms(weight: Tensor, axis: int) -> Tensor:
    """Return L1 norms of a weight's slices along `axis`, divided by their mean: float64 (n,)."""
    slices = weight.detach().abs().movedim(axis, 0).reshape(weight.shape[axis], -1)
    norms = slices.sum(dim=1).cpu().double()
    return norms / norms.mean()
