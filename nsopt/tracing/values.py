"""Compute the values of tensors that depend neither on trained parameters nor on images.

Fake tensors have no values, but code may need some: the strides of a detector's maps, a length from
`arange`, a mask in the input. An operation whose arguments have known values therefore also runs
for real. In-place operations change known values, too, until an unknown value is written. Where
values decide what is picked and are unknown, nsopt assumes that everything is: `nonzero` finds all
elements, and no box suppresses another one.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map_only

from nsopt.inputs import identify_memory, tensors_in
from nsopt.tracing.rules import find_mode

_FILLS = {f"aten::{name}" for name in ["new_ones", "new_zeros", "ones_like", "zeros_like"]}
_FEWEST = 2  # different values that `unique` finds
_MOST = 2**20  # elements of a tensor whose values are computed


class Values:
    """The known values of the tensors of one run.

    Attributes:
        declared: the ids of buffers.
        sources: the buffers and inputs behind each known value, by the id of its tensor.
    """

    def __init__(self) -> None:
        self.declared: set[int] = set()
        self.sources: dict[int, frozenset[int]] = {}
        self._known: dict[int, Tensor] = {}
        self._unknown: set[int] = set()  # ids of real tensors whose values are not known
        self._overwritten: set[int] = set()  # memory into which an unknown value was written
        self._kept_alive: list[Tensor] = []  # else Python may reuse the ids

    def put(self, tensor: Tensor, value: Tensor, sources: frozenset[int] = frozenset()) -> None:
        """Store a copy of `value` as the value of `tensor`, unless it is large."""
        if value.numel() <= _MOST and value.device.type == "cpu":
            with no_dispatch():
                self._store(tensor, value.detach().clone(), sources)

    def find(self, tensor: Tensor) -> Tensor | None:
        """Return the value of a tensor, or None if it is unknown."""
        key = id(tensor)
        is_known = key in self._known or key in self._unknown
        if not is_known and not isinstance(tensor, FakeTensor | nn.Parameter):
            self.put(tensor, tensor, frozenset([key] if key in self.declared else []))
        value = self._known.get(key)
        if value is None or not self._overwritten:
            return value
        return None if identify_memory(value) in self._overwritten else value

    def is_unknown_mask(self, x: Tensor, indices: Sequence[Tensor | None]) -> bool:
        """Return whether the only index is a mask of all elements of `x`, with unknown values."""
        mask = indices[0]
        if mask is None or not is_mask_of(x, mask):
            return False
        return isinstance(x, FakeTensor) and self.find(mask) is None

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return the real result of an operation, or None if it is unknown."""
        is_fill = func._schema.name in _FILLS  # it takes type and shape alone from a tensor
        known = is_fill or (self._are_known(args) and self._are_known(kwargs.values()))
        if not (_is_repeatable(func) and known):
            return None
        try:
            if is_fill:
                with no_dispatch():
                    like = torch.zeros((), dtype=args[0].dtype).expand(args[0].shape)
                    return func(like, *args[1:], **kwargs)
            real = tree_map_only(Tensor, self.find, (args, kwargs))
            with no_dispatch(), torch.no_grad():
                return func(*real[0], **real[1])
        except Exception:  # then the operation on fake tensors tells why
            return None

    def follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Learn the values of `result`, which an operation on fake tensors returned."""
        made = [result] if isinstance(result, Tensor) else tensors_in(result)
        small = all(t.numel() <= _MOST and t.device.type == "cpu" for t in made)
        real = self.compute(func, args, kwargs) if small else None
        if real is not None:
            sources = self._find_sources((args, kwargs))
            for tensor, constant in zip(made, tensors_in(real), strict=True):
                self._store(tensor, constant, sources)
            return
        for tensor in made:
            if not isinstance(tensor, FakeTensor):
                self._unknown.add(id(tensor))
                self._kept_alive.append(tensor)
        for tensor in list_written(func, args, kwargs):
            if (value := self.find(tensor)) is not None:
                self._overwritten.add(identify_memory(value))

    def _store(self, tensor: Tensor, value: Tensor, sources: frozenset[int]) -> None:
        self._known[id(tensor)] = value
        self.sources[id(tensor)] = sources
        self._kept_alive.append(tensor)

    def _find_sources(self, tree: Any) -> frozenset[int]:
        sources = [self.sources.get(id(tensor), frozenset()) for tensor in tensors_in(tree)]
        return frozenset().union(*sources)

    def _are_known(self, arguments: Any) -> bool:
        for argument in arguments:
            if isinstance(argument, Tensor):
                if self.find(argument) is None:
                    return False
            elif isinstance(argument, list | tuple) and not self._are_known(argument):
                return False
        return True


def is_mask_of(x: Tensor, index: Tensor) -> bool:
    """Return whether an index is a mask of all elements of `x`."""
    return (index.dtype, index.shape) == (torch.bool, x.shape)


@cache
def _is_repeatable(func: Any) -> bool:
    """Return whether an operation draws no random numbers."""
    return torch.Tag.nondeterministic_seeded not in func.tags


class Span(NamedTuple):
    """Where a tensor lies in its memory: its first and last element, size and stride by axis."""

    first: int
    last: int
    axes: list[tuple[int, int]]

    def meets(self, other: "Span") -> bool:
        return self.first <= other.last and other.first <= self.last


def locate(tensor: Tensor) -> Span:
    axes, first = [*zip(tensor.shape, tensor.stride(), strict=True)], int(tensor.storage_offset())
    return Span(first, first + sum((size - 1) * step for size, step in axes), axes)


def list_written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the tensors that an operation changes, but for sparse ones."""
    arguments = _find_written(func)
    written = [args[i] if i < len(args) else kwargs.get(name) for i, name in arguments]
    return [tensor for tensor in tensors_in(written) if tensor.layout == torch.strided]


@cache
def _find_written(func: Any) -> list[tuple[int, str]]:
    """Return the positions and names of the arguments that an operation changes."""
    arguments = enumerate(func._schema.arguments)
    return [(i, arg.name) for i, arg in arguments if arg.alias_info and arg.alias_info.is_write]


def make_fakes(values: Values, result: Any) -> Any:
    """Return fake tensors with the values of real ones, if not on `meta`; numbers stay."""

    def fake(real: Tensor) -> Tensor:
        made = FakeTensor(find_mode(), real.to("meta"), torch.device("cpu"))
        values.put(made, real)
        return made

    with no_dispatch():
        return tree_map_only(Tensor, fake, result)


def pick_all(func: Any, args: Any, kwargs: Any) -> Any:
    """Return the result of an operation that picks all it can, or None for other operations."""
    with no_dispatch():
        pick = _PICKS.get(func._schema.name)
        return pick(*args, **kwargs) if pick else None


def _find_all(x: Tensor) -> Tensor:
    return torch.ones(x.shape, dtype=torch.bool).nonzero()


def _keep_all(boxes: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.arange(len(boxes))


def _select_all(x: Tensor, mask: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(x.shape, mask.shape)
    return torch.empty(shape.numel(), dtype=x.dtype, device="meta")


def _find_few(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    count = min(_FEWEST, x.numel())
    inverse, counts = (torch.empty(n, dtype=torch.int64, device="meta") for n in (x.shape, count))
    return torch.empty(count, dtype=x.dtype, device="meta"), inverse, counts


_PICKS: dict[str, Callable[..., Any]] = {
    "aten::nonzero": _find_all,
    "aten::masked_select": _select_all,
    "aten::_unique2": _find_few,
    "aten::unique_consecutive": _find_few,
    "aten::repeat_interleave": _keep_all,
    "torchvision::nms": _keep_all,
}
