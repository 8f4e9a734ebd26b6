"""What networks with shortcuts share: which layers are tied, and when a projection exists."""

from collections.abc import Sequence
from typing import Literal, TypeVar

from nsopt.scaling.cost import Channels

Shortcuts = Literal["identity", "convcut", "tied"]
T = TypeVar("T")


def tie(base_widths: Sequence[int], joined: Sequence[tuple[int, int]]) -> list[int]:
    """The group of every layer when the pairs in `joined` (earlier, later) share one width.

    Groups are numbered in forward order of their first layers.
    """
    leader = list(range(len(base_widths)))
    for earlier, later in joined:
        leader[later] = leader[earlier]
    numbers = {first: number for number, first in enumerate(dict.fromkeys(leader))}
    return [numbers[first] for first in leader]


def members(group_of: Sequence[int], values: Sequence[T]) -> tuple[tuple[T, ...], ...]:
    """The values of every group's layers, given one per layer."""
    groups: list[list[T]] = [[] for _ in range(max(group_of) + 1)]
    for group, value in zip(group_of, values, strict=True):
        groups[group].append(value)
    return tuple(tuple(group) for group in groups)


def leaders(group_of: Sequence[int], values: Sequence[T]) -> tuple[T, ...]:
    """The value of every group's first layer."""
    return tuple(group[0] for group in members(group_of, values))


def variant_name(family: str, shortcuts: Shortcuts) -> str:
    """The name of a family's network with these shortcuts."""
    return family if shortcuts == "identity" else f"{family}-{shortcuts}"


def projection_condition(
    shortcuts: Shortcuts, stride: int, inputs: Channels, outputs: Channels
) -> tuple[Channels, Channels] | None:
    """`unless_equal` of a block's projection: an identity takes its place where shapes agree.

    Where stride is not 1 a projection is always there, and in ConvCut (supplement, section 6.4)
    everywhere.
    """
    if stride != 1 or shortcuts == "convcut":
        return None
    return inputs, outputs
