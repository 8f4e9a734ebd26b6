"""Sizes inside of a configuration follow the widths, whatever kind of container it is."""

import enum
import operator
from collections import ChainMap, UserDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nsopt import NsoptError, trace
from tests.tracing.checks import check_building

Read = Callable[[Any], Any]


class Tuple(NamedTuple):
    dim: int = 12
    rate: float = 0.5


class Sizes(NamedTuple):
    dim: int = 12
    heads: int = 12


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    dim: int = 12
    rate: float = 0.5


class PlainSlots:
    __slots__ = ("dim", "later")

    def __init__(self) -> None:
        self.dim = 12


class OfClass:
    dim = 12


class OwnCopy(OfClass):
    def __init__(self) -> None:
        self.dim = 12

    def __copy__(self) -> Any:
        return self


@dataclass(frozen=True)
class Outer:
    model: Any = None
    dim: int = 12


class Keywords(dict[str, int]):
    def __init__(self, *, dim: int) -> None:
        super().__init__(dim=dim)


class Attributes(dict[str, Any]):
    """A dictionary of its own attributes, as vocoders have one."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.__dict__ = self


class ReadOnly(dict[str, int]):
    """A dictionary of its own attributes, which refuses to be changed by them."""

    def __init__(self, **values: int) -> None:
        super().__init__(values)
        object.__setattr__(self, "__dict__", self)

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("give another configuration")


class Fixed(enum.IntEnum):
    dim = 12


class Raising(OwnCopy):
    def __copy__(self) -> Any:
        raise TypeError("this configuration cannot be copied")


read_attribute, read_key = operator.attrgetter("dim"), operator.itemgetter("dim")
read_nested = operator.attrgetter("model.dim")


class Viewed(nn.Module):
    """Reads a size from its configuration, which its inner module shares."""

    def __init__(self, sizes: Any, read: Read) -> None:
        super().__init__()
        self.sizes, self.read = sizes, read
        self.first, self.inner, self.last = nn.Linear(6, 12), Inner(sizes), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x).relu().view(-1, self.read(self.sizes))
        return self.last(self.inner(x))


class Inner(nn.Linear):
    def __init__(self, sizes: Any) -> None:
        super().__init__(12, 12)
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


ATTRIBUTES: list[Any] = [Tuple(), Sizes(), FrozenSlots(), PlainSlots()]
ATTRIBUTES += [Attributes(dim=12), ReadOnly(dim=12), Outer(), OfClass()]
ATTRIBUTES += [SimpleNamespace(dim=np.int64(12))]
KEYS: list[Any] = [defaultdict(int, dim=12), UserDict(dim=12), Keywords(dim=12)]
KEYS += [ChainMap({"rate": 1}, {"dim": 12})]
NESTED = {"model": {"dim": 12, "rate": 0.5}}, UserDict(model=defaultdict(int, dim=12))
LISTS = SimpleNamespace(dims=[12, 5, 12]), SimpleNamespace(dims=(12, 12))


@pytest.mark.parametrize(
    ("sizes", "read"),
    [
        *((sizes, operator.pos) for sizes in (np.prod([4, 3]), np.int32(12))),
        *((sizes, read_attribute) for sizes in ATTRIBUTES),
        *((sizes, read_key) for sizes in KEYS),
        *((sizes, lambda sizes: sizes["model"]["dim"]) for sizes in NESTED),
        *((sizes, lambda sizes: sizes.dims[0]) for sizes in LISTS),
        ([np.int64(12), np.int64(5)], operator.itemgetter(0)),
        ([{"dim": 12}, {"dim": 5}], lambda sizes: sizes[0]["dim"]),
        (Attributes(model=Attributes(dim=12)), read_nested),
        (SimpleNamespace(model=SimpleNamespace(dim=12)), read_nested),
        (SimpleNamespace(model=Tuple()), read_nested),
        (Outer(Outer(FrozenSlots())), operator.attrgetter("model.model.dim")),
    ],
)
def test_sizes_in_a_configuration_follow_the_widths(sizes: Any, read: Read) -> None:
    model, x = Viewed(sizes, read), torch.randn(2, 6)
    before = repr(sizes)
    arch = trace(model, x)
    assert arch.base_widths == (12, 12)
    check_building(arch, x)
    smaller: Any = arch.build([5, 7])
    assert smaller(x).shape == (2, 3)
    assert (read(smaller.sizes), read(sizes)) == (5, 12)
    assert type(smaller.sizes) is type(sizes)
    assert type(read(smaller.sizes)) is type(read(sizes))
    assert model.sizes is sizes
    assert model.inner.sizes is sizes
    assert repr(sizes) == before


def test_the_rest_of_a_configuration_stays() -> None:
    sizes = defaultdict(list, dim=12, model=SimpleNamespace(dim=30, name="small"))
    smaller: Any = trace(Viewed(sizes, read_key), torch.randn(2, 6)).build([5, 12])
    assert smaller.sizes == defaultdict(list, dim=5, model=sizes["model"])
    assert vars(smaller)["sizes"].default_factory is list


class Shared(nn.Module):
    """Two modules of a kind read one configuration, each in another width."""

    def __init__(self, sizes: Any) -> None:
        super().__init__()
        self.one, self.other = (Viewed(sizes, read_nested) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.other(x)], 1)


def test_modules_that_share_a_nested_configuration_follow_their_own_widths() -> None:
    sizes = SimpleNamespace(model=FrozenSlots())
    model, x = Shared(sizes), torch.randn(2, 6)
    arch = trace(model, x)
    assert arch.base_widths == (12,) * 4
    check_building(arch, x)
    smaller: Any = arch.build([5, 6, 7, 8])
    assert smaller.one.sizes.model.dim == smaller.one.first.out_features
    assert smaller.other.sizes.model.dim == smaller.other.first.out_features
    assert sizes.model.dim == 12


@pytest.mark.parametrize(
    ("sizes", "read"),
    [
        (Fixed.dim, operator.pos),
        (OwnCopy(), read_attribute),
        (Raising(), read_attribute),
        (SimpleNamespace(dim=Fixed.dim), read_attribute),
        (SimpleNamespace(model=Raising()), read_nested),
    ],
)
def test_a_size_that_cannot_be_replaced_stays(sizes: Any, read: Read) -> None:
    model = nn.Sequential(Viewed(sizes, read))
    model.get_submodule("0").inner = nn.Identity()
    with pytest.raises(NsoptError, match="no width of this network can change"):
        trace(model, torch.randn(2, 6))
    assert read(sizes) == 12
