"""Tables that code remembers outside its modules, in one place for each function of `PLACES`."""

import threading
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tests.models.tracing import tables

PLACES: dict[str, Callable[[], Tensor]] = {}


def place(function: Any) -> Any:
    PLACES[function.__name__] = function
    return function


def make() -> Tensor:
    return torch.linspace(1, 2, 4)


@place
def attribute() -> Tensor:
    f: Any = attribute
    if not hasattr(f, "table"):
        f.table = make()
    return f.table


@place
def attribute_that_was_none() -> Tensor:
    f: Any = attribute_that_was_none
    if f.table is None:
        f.table = make()
    return f.table


vars(attribute_that_was_none)["table"] = None


@place
def default(tables: dict[int, Tensor] = {}) -> Tensor:  # noqa: B006
    if 4 not in tables:
        tables[4] = make()
    return tables[4]


@place
def keyword_default(*, tables: list[Tensor] = []) -> Tensor:  # noqa: B006
    if not tables:
        tables.append(make())
    return tables[-1]


def enclose() -> None:
    table: Any = None
    listed: list[Tensor] = []
    late: Any = None
    del late
    steps = 0
    kept: dict[str, Tensor] = {}

    @place
    def cell() -> Tensor:
        nonlocal table
        if table is None:
            table = make()
        return table

    @place
    def empty_cell() -> Tensor:
        nonlocal late
        try:
            return late
        except NameError:
            late = make()
            return late

    @place
    def list_around() -> Tensor:
        if not listed:
            listed.append(make())
        return listed[0]

    @place
    def size_elsewhere() -> Tensor:
        nonlocal steps
        if steps < 4:
            steps, kept["table"] = 4, make()
        return kept["table"]


enclose()


class Tables:
    tables: ClassVar[dict[int, Tensor]] = {}
    table: ClassVar[Any] = None

    @staticmethod
    def get() -> Tensor:
        if 4 not in Tables.tables:
            Tables.tables[4] = make()
        return Tables.tables[4]

    @classmethod
    def get_one(cls) -> Tensor:
        if cls.table is None:
            cls.table = make()
        return cls.table


PLACES["dictionary_of_a_class"] = Tables.get
PLACES["attribute_of_a_class"] = Tables.get_one


class Table:
    def __init__(self) -> None:
        self.table: Any = None

    def __call__(self) -> Tensor:
        if self.table is None:
            self.table = make()
        return self.table

    @cached_property
    def steps(self) -> Tensor:
        return make()


class Slotted:
    __slots__ = ("table",)
    table: Tensor


@dataclass
class Pair:
    one: Tensor
    two: list[dict[str, Tensor]]


_callable, _cached, _slotted = Table(), Table(), Slotted()
_lazy: Any = None
_pairs: dict[str, Any] = {}
_deque: deque[Tensor] = deque(maxlen=2)
_local = threading.local()
_variable: ContextVar[Tensor] = ContextVar("table")
_tables: ContextVar[dict[int, Tensor]] = ContextVar("tables")
_tables.set({})
_ordered: OrderedDict[str, Any] = OrderedDict(b=None, a=1)
_user: UserDict[str, Tensor] = UserDict()
_weak: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()
_nested: dict[str, dict[str, dict[str, Tensor]]] = {"a": {"b": {}}}
_limit = 0
_grown: dict[str, Tensor] = {}


@place
def callable_object() -> Tensor:
    return _callable()


@place
def property_of_an_object() -> Tensor:
    return _cached.steps


@place
def slot() -> Tensor:
    if not hasattr(_slotted, "table"):
        _slotted.table = make()
    return _slotted.table


@place
def object_made_when_needed() -> Tensor:
    global _lazy  # noqa: PLW0603
    if _lazy is None:
        _lazy = Table()
    return _lazy()


@place
def deep_in_what_is_new() -> Tensor:
    if not _pairs:
        _pairs["a"] = Pair(torch.ones(1), [{"table": make()}])
    return _pairs["a"].one * _pairs["a"].two[0]["table"]


@place
def deep_in_what_is_old() -> Tensor:
    inner = _nested["a"]["b"]
    if "c" not in inner:
        inner["c"] = make()
    return inner["c"]


@place
def global_deque() -> Tensor:
    if not _deque:
        _deque.append(make())
    return _deque[-1]


@place
def local_of_a_thread() -> Tensor:
    if not hasattr(_local, "table"):
        _local.table = make()
    return _local.table


@place
def context_variable() -> Tensor:
    if _variable.get(None) is None:
        _variable.set(make())
    return _variable.get()


@place
def dictionary_of_a_context() -> Tensor:
    if 4 not in _tables.get():
        _tables.get()[4] = make()
    return _tables.get()[4]


@place
def ordered() -> Tensor:
    if _ordered["b"] is None:
        _ordered["b"] = make()
    return _ordered["b"]


@place
def dictionary_of_collections() -> Tensor:
    if "table" not in _user:
        _user["table"] = make()
    return _user["table"]


@place
def dictionary_with_weak_keys() -> Tensor:
    if _cached not in _weak:
        _weak[_cached] = make()
    return _weak[_cached]


@place
def size_in_a_global() -> Tensor:
    global _limit
    if _limit < 4:
        _limit, _grown["table"] = 4, make()
    return _grown["table"]


def _look_up(tables: dict[int, Tensor], steps: int) -> Tensor:
    if steps not in tables:
        tables[steps] = make()
    return tables[steps]


_partial = partial(_look_up, {}, steps=4)


@place
def partial_over_a_dictionary() -> Tensor:
    return _partial()


@cache
def _make_table() -> Table:
    return Table()


@cache
def _make_steps() -> Tensor:
    return make()


@place
def object_of_a_cached_function() -> Tensor:
    return _make_table()()


@place
def cached_function() -> Tensor:
    return _make_steps()


@place
def other_file() -> Tensor:
    if tables.table is None:
        tables.table = make()
    return tables.table


@place
def function_of_another_file() -> Tensor:
    return tables.get()


@place
def import_in_a_function() -> Tensor:
    from tests.models.tracing.tables import get_more

    return get_more()


class Remembering(nn.Module):
    """Multiplies by a table from one place."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.get = PLACES[name]
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(self.b(self.a(x).relu()).relu() * self.get().sum())
        return y
