"""How nsopt's own networks are built, and what a trace of them does not tell."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn

from nsopt.scaling.cost import ALWAYS, Widths
from nsopt.tracing.groups import tie

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Design:
    """A network as its author knows it. That of a user's network, which is only traced, is empty.

    A searched width controls a group of layers: usually one, in tied networks all that identity
    shortcuts join.

    Attributes:
        make: makes a network from the widths of its layers, and the names of the blocks whose
            shortcut is the identity in place of a convolution.
        names: names of the layers.
        gates: per layer, the path of the module after which its channels are scored and masked (a
            BatchNorm, or an Identity that marks an activation).
        filters: per layer, the path of the convolution that makes its channels.
        group_of: the group of each layer.
        shortcuts: by block, the layers before and after a shortcut that is the identity if both are
            equally wide. The block has either modules NAME_shortcut..., or the Identity
            NAME_identity. The traced network has the first between different groups.
        reads: paths of the Identity modules through which layers read channels from a residual
            stream, with the layers that make them. Gates do not change the stream.
        followers: paths of convolutions that make several channels of each input, in order, which
            are kept or removed with it.
    """

    make: Callable[[Sequence[int], Collection[str]], nn.Module] | None = None
    names: Sequence[str] = ()
    gates: Sequence[str] = ()
    filters: Sequence[str] = ()
    group_of: Sequence[int] = ()
    shortcuts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    reads: Mapping[str, int] = field(default_factory=dict)
    followers: Sequence[str] = ()

    def build(self, widths: Widths, whole: bool = False) -> nn.Module:
        """Return a new network of `widths`, per group; if `whole`, without identity shortcuts."""
        assert self.make is not None
        of_layer = [int(widths[group]) for group in self.group_of]
        told, ends = self.group_of if whole else of_layer, self.shortcuts.items()
        return self.make(of_layer, {block for block, (a, b) in ends if told[a] == told[b]})

    def find_pair(self, path: str) -> tuple[int, int]:
        """Return the groups that must differ for a module to exist; a group twice for any other."""
        block, is_shortcut, _ = path.partition("_shortcut")
        return self.pairs.get(block, ALWAYS) if is_shortcut else ALWAYS

    @property
    def pairs(self) -> dict[str, tuple[int, int]]:
        """The groups before and after each shortcut that may be the identity, by block."""
        of = self.group_of
        return {block: (of[a], of[b]) for block, (a, b) in self.shortcuts.items()}

    def find_gates(self, model: nn.Module) -> list[list[nn.Module]]:
        """Return the modules after which each group's channels are scored and masked."""
        return list_members(self.group_of, map(model.get_submodule, self.gates))

    def find_filters(self, model: nn.Module) -> list[list[Tensor]]:
        """Return the weights that make each group's channels, shapes (w_l, inputs, k, k)."""
        weights = (model.get_parameter(f"{path}.weight") for path in self.filters)
        return list_members(self.group_of, weights)

    def find_streams(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Return per group the first one whose channels identity shortcuts add to its own."""
        equal = [(a, b) for a, b in self.pairs.values() if widths[a] == widths[b]]
        stream_of = tie(len(widths), equal).tolist()
        return tuple(map(stream_of.index, stream_of))


def list_members(group_of: Sequence[int], values: Iterable[T]) -> list[list[T]]:
    """Group `values`, one per layer, by the groups of the layers."""
    groups: list[list[T]] = [[] for _ in range(max(group_of, default=-1) + 1)]
    for group, value in zip(group_of, values, strict=True):
        groups[group].append(value)
    return groups
