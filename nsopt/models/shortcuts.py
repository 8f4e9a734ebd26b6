"""What networks with shortcuts share: which layers are tied, and when a projection exists."""

from collections.abc import Sequence
from typing import Literal

from nsopt.scaling.cost import Channels

Shortcuts = Literal["identity", "convcut", "tied"]


def tie(base_widths: Sequence[int], joined: Sequence[tuple[int, int]]) -> list[int]:
    """The group of every layer when the pairs in `joined` (earlier, later) share one width.

    Groups are numbered in forward order of their first layers.
    """
    leader = list(range(len(base_widths)))
    for earlier, later in joined:
        leader[later] = leader[earlier]
    numbers = {first: number for number, first in enumerate(dict.fromkeys(leader))}
    return [numbers[first] for first in leader]


def members(group_of: Sequence[int], paths: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The paths of every group's layers."""
    groups: list[list[str]] = [[] for _ in range(max(group_of) + 1)]
    for group, path in zip(group_of, paths, strict=True):
        groups[group].append(path)
    return tuple(tuple(group) for group in groups)


def first_of_groups(group_of: Sequence[int]) -> list[int]:
    """The first layer of every group."""
    return [list(group_of).index(group) for group in range(max(group_of) + 1)]


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
