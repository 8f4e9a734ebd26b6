"""What code remembers outside its modules: in all that its functions and classes can reach.

A trace runs code on fake tensors. Where it leaves one in such a place, all is as before afterwards.
"""

import gc
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import _lru_cache_wrapper, lru_cache
from operator import is_
from pathlib import Path
from threading import local
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from nsopt.models.tracing.originals import list_closure

_MOST, _FEW = 3000, 1000  # objects that are looked at, and entries of a collection that are
_FOREIGN = {*sys.stdlib_module_names, "torch", "nsopt", "numpy"}  # whose code remembers nothing
_HOLDERS = {"builtins", "collections", "functools", "types", "weakref", "_thread", "_contextvars"}
_PLAIN = {int, float, complex, str, bytes, bool, NoneType, CodeType}
_KINDS: tuple[Any, ...] = OrderedDict, dict, list, deque, set


@contextmanager
def forget_fakes(model: nn.Module) -> Iterator[list[Any]]:
    """Inside the block, code may remember fake tensors. Then all that it changed is as before.

    If it remembers none, nothing changes back.

    Yields:
        What hooks of modules may fill: dictionaries, lists and other objects.
    """
    modules = list(model.modules())
    known = set(map(id, modules))
    reached = list(_walk(set(map(type, modules)), known))  # first: stored data may be large
    known.update(map(id, reached))
    reached += _walk(_list_roots(modules), known)
    known.update(map(id, reached))
    stores = {id(store): store for item in reached for store in _list_stores(item)}.values()
    contents = [(store, _read(store)) for store in stores]
    counted = [(f, f.cache_info().misses) for f in reached if type(f) is _lru_cache_wrapper]
    try:
        yield _list_filled(modules)
    finally:
        changed = [(store, before) for store, before in contents if not _is_same(store, before)]
        cached = [f for f, misses in counted if f.cache_info().misses != misses]
        added = [_flatten(_read(store)) for store, _ in changed] + list(map(_list_parts, cached))
        found = _walk([item for items in added for item in items], known)
        if any(type(item) is FakeTensor for item in found):
            for store, before in changed:
                _give_back(store, before)
            for function in cached:
                function.cache_clear()


def _list_filled(modules: list[nn.Module]) -> list[Any]:
    """Return the objects that hooks use: of a method, or of the variables around a function."""
    stores = ((m._forward_pre_hooks, m._forward_hooks) for m in modules)
    held = list[Any]()
    for hook in [hook for pair in stores for store in pair for hook in store.values()]:
        if isinstance(hook, MethodType):
            held.append(hook.__self__)
        elif isinstance(hook, FunctionType):
            held += [*list_closure(hook), *(hook.__defaults__ or ())]
    foreign = nn.Module, Tensor, type, FunctionType, MethodType
    return [item for item in held if not isinstance(item, foreign)]


def _list_roots(modules: list[nn.Module]) -> list[Any]:
    """Return what modules store, also in collections, which are copied."""
    roots = list[Any]()
    for module in modules:
        for value in vars(module).values():
            if type(value) in _KINDS:
                roots += _flatten(value) if len(value) <= _FEW else ()
            elif type(value) not in _PLAIN:
                roots.append(value)
    return roots


def _walk(roots: Iterable[Any], known: set[int]) -> Iterator[Any]:
    """Yield what code of the user can reach, the nearest first, except for `known` objects."""
    waiting, seen = deque(roots), set(known)
    while waiting and len(seen) < len(known) + _MOST:
        item = waiting.popleft()
        if type(item) not in _PLAIN and id(item) not in seen and _is_of_user(item):
            seen.add(id(item))
            yield item
            waiting.extend(_list_parts(item))


def _is_of_user(item: Any) -> bool:
    """Return whether an object is of a user's file, may hold one that is, or is a fake tensor."""
    kind = type(item)
    if issubclass(kind, Tensor):
        return kind is FakeTensor
    if issubclass(kind, ModuleType):
        return _is_own(item.__name__)
    if issubclass(kind, type | FunctionType | _lru_cache_wrapper):
        return _is_own(str(item.__module__))
    return kind.__module__ in _HOLDERS or _is_own(str(kind.__module__))


@lru_cache(None)
def _is_own(module: str) -> bool:
    """Return whether a file is the user's, or of an installed package and computes with tensors."""
    if module.partition(".")[0] in _FOREIGN:
        return False
    names = vars(sys.modules[module]) if module in sys.modules else {}
    is_installed = "-packages" in Path(names.get("__file__") or "").parent.as_posix()
    return not is_installed or not names.keys().isdisjoint(("torch", "nn", "Tensor"))


def _list_parts(item: Any) -> list[Any]:
    """Return what an object holds; of files, only what functions name."""
    kind = type(item)
    base = _find_base(item)
    is_long = base is not None and base.__len__(item) > _FEW
    if is_long or issubclass(kind, FakeTensor | ModuleType):
        return []
    if kind is FunctionType:
        named = _list_named(_find_names(item.__code__), item.__globals__)
        held = vars(item), item.__defaults__, item.__kwdefaults__
        return [*held, *(item.__closure__ or ()), *named]
    if issubclass(kind, type):
        return [*vars(item).values(), *item.__mro__]
    if issubclass(kind, local | ContextVar):
        return [item.get(None) if kind is ContextVar else vars(item)]
    parts = gc.get_referents(item)
    if kind is _lru_cache_wrapper:  # its dictionary changes by its methods alone
        return [held for p in parts for held in (p.values() if type(p) is dict else (p,))]
    return parts


def _find_names(code: CodeType) -> set[str]:
    """Return the names of globals and attributes in a function and those inside of it."""
    inner = [_find_names(const) for const in code.co_consts if type(const) is CodeType]
    return set(code.co_names).union(*inner)


def _list_named(names: set[str], file: dict[str, Any], depth: int = 2) -> Iterator[Any]:
    """Yield what a file, and files that it imports, have by these names."""
    for name in names:
        if name in file or name in sys.modules:  # a function may import what it names
            value = file[name] if name in file else sys.modules[name]
            yield value
            if depth and issubclass(type(value), ModuleType) and _is_own(value.__name__):
                yield from _list_named(names, vars(value), depth - 1)


def _list_stores(item: Any) -> list[Any]:
    """Return the parts of an object that code may change; `_read` reads them."""
    kind = type(item)
    if kind is FunctionType:
        return [item.__globals__]
    has_slots = hasattr(kind, "__slots__") and _is_own(str(kind.__module__))
    stores = [item] if has_slots or issubclass(kind, (type, CellType, *_KINDS)) else []
    if kind.__dictoffset__ and not issubclass(kind, type):
        stores.append(object.__getattribute__(item, "__dict__"))
    return stores


def _read(store: Any) -> Any:
    """Return a copy of a collection, or the attributes of a class, cell or object with slots."""
    if base := _find_base(store):
        return dict(base.items(store)) if issubclass(base, dict) else list(base.__iter__(store))
    if type(store) is CellType:
        return dict(zip(["cell_contents"], gc.get_referents(store), strict=False))
    if isinstance(store, type):
        return dict(vars(store))
    state = object.__getstate__(store)  # without any value in a slot, this is no pair
    return state[1] if type(state) is tuple else {}


def _find_base(store: Any) -> Any:
    """Return the collection from which a class inherits: its own methods may do more."""
    return next((kind for kind in _KINDS if issubclass(type(store), kind)), None)


def _flatten(content: Any) -> list[Any]:
    return [*content, *content.values()] if isinstance(content, dict) else list(content)


def _is_same(store: Any, before: Any) -> bool:
    now, then = _flatten(_read(store)), _flatten(before)
    return len(now) == len(then) and all(map(is_, now, then))


def _give_back(store: Any, before: Any) -> None:
    base = _find_base(store)
    if isinstance(before, list):
        base.clear(store)
        (base.update if base is set else base.extend)(store, before)
        return
    if base:
        put, remove = base.__setitem__, base.__delitem__
    else:
        owner = type if isinstance(store, type) else object
        put, remove = owner.__setattr__, owner.__delattr__
    now = _read(store)
    for name in now.keys() - before.keys():
        if not isinstance(now[name], ModuleType):  # Python will not import it again
            remove(store, name)
    for name, value in before.items():
        if name not in now or now[name] is not value:
            put(store, name, value)
