"""Networks with shortcuts: which layers are tied."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from nsopt.tracing.groups import tie

Shortcuts = Literal["identity", "convcut", "tied"]
T = TypeVar("T")


def members(group_of: Sequence[int], values: Sequence[T]) -> tuple[tuple[T, ...], ...]:
    """Group `values`, one per layer, by the groups of the layers."""
    groups: list[list[T]] = [[] for _ in range(max(group_of, default=-1) + 1)]
    for group, value in zip(group_of, values, strict=True):
        groups[group].append(value)
    return tuple(tuple(group) for group in groups)


def leaders(group_of: Sequence[int], values: Sequence[T]) -> tuple[T, ...]:
    """Return the value of every group's first layer."""
    return tuple(group[0] for group in members(group_of, values))


def variant_name(family: str, shortcuts: Shortcuts) -> str:
    """Return the name of a family's network with these shortcuts."""
    return family if shortcuts == "identity" else f"{family}-{shortcuts}"


def group_layers(
    shortcuts: Shortcuts, widths: Sequence[int], ends: Mapping[str, tuple[int, int]]
) -> list[int]:
    """Return the group of each layer: in tied networks identity shortcuts join layers.

    Args:
        widths: of the layers in the original network.
        ends: the layers before and after each shortcut of stride 1.
    """
    joined = [(a, b) for a, b in ends.values() if widths[a] == widths[b]]
    groups: list[int] = tie(len(widths), joined if shortcuts == "tied" else []).tolist()
    return groups
