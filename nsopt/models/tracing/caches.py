"""What code remembers outside its modules: in hooks, classes, files and functions with a cache.

A trace runs code on fake tensors. Where it leaves one in such a place, all is as before afterwards.
"""

import functools
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from nsopt.models.tracing.originals import list_closure

_KINDS = (dict, OrderedDict, defaultdict, list)
_MOST, _FEW = 1000, 100  # entries of what is a cache, and of one whose entries may be caches
_FOREIGN = "torch", "builtins", "abc", "typing", "collections"  # whose classes remember nothing
_Cached = functools._lru_cache_wrapper


@contextmanager
def forget_fakes(model: nn.Module) -> Iterator[list[Any]]:
    """Inside the block, code may remember fake tensors; then places that hold some are as before.

    Yields:
        What hooks of modules may fill: dictionaries, lists and other objects.
    """
    hooks = _list_hooks(model)
    filled = _list_filled(hooks)
    variables = [(owner, dict(vars(owner))) for owner in _find_owners(model, hooks)]
    places = [*filled, *(vars(item) for item in filled if hasattr(item, "__dict__"))]
    places += chain.from_iterable(before.values() for _, before in variables)
    caches = list(_look_into(places))
    functions = [getattr(place, "__func__", place) for place in places]
    counted = [(f, f.cache_info().misses) for f in functions if isinstance(f, _Cached)]
    try:
        yield filled
    finally:
        for owner, before in variables:
            _give_back_variables(owner, before)
        for cache, content in caches:
            _give_back(cache, content)
        for function, misses in counted:
            if function.cache_info().misses != misses:
                function.cache_clear()


def _list_hooks(model: nn.Module) -> list[Any]:
    stores = ((m._forward_pre_hooks, m._forward_hooks) for m in model.modules())
    return [hook for pair in stores for store in pair for hook in store.values()]


def _list_filled(hooks: Iterable[Any]) -> list[Any]:
    """Return the objects that hooks use: of a method, or of the variables around a function."""
    held = list[Any]()
    for hook in hooks:
        if isinstance(hook, MethodType):
            held.append(hook.__self__)
        elif isinstance(hook, FunctionType):
            held += [*list_closure(hook), *(hook.__defaults__ or ())]
    foreign = nn.Module, Tensor, type, FunctionType, MethodType
    return [item for item in held if not isinstance(item, foreign)]


def _find_owners(model: nn.Module, hooks: Iterable[Any]) -> set[Any]:
    """Return the classes of modules, and the files in which these and hooks are written."""
    classes = {kind for module in model.modules() for kind in type(module).__mro__}
    own = {kind for kind in classes if kind.__module__.partition(".")[0] not in _FOREIGN}
    names = {item.__module__ for item in (*own, *hooks) if hasattr(item, "__module__")}
    return own | {sys.modules[name] for name in names & sys.modules.keys()}


def _look_into(places: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield what may be a cache, with a copy: dictionaries and lists, and those inside of them."""
    for place in places:
        if type(place) in _KINDS and len(place) <= _MOST:
            yield place, place.copy()
            if len(place) <= _FEW:
                inner = [item for item in _list_items(place) if type(item) in _KINDS]
                yield from ((item, item.copy()) for item in inner if len(item) <= _MOST)


def _list_items(cache: Any) -> Iterable[Any]:
    return list(cache.values()) if isinstance(cache, dict) else cache


def _is_fake(value: Any) -> bool:
    items = value if type(value) is tuple else (value,)
    return any(isinstance(item, FakeTensor) for item in items)


def _give_back(cache: Any, before: Any) -> None:
    if not any(map(_is_fake, _list_items(cache))):
        return
    if isinstance(cache, list):
        cache[:] = before
    else:
        cache.clear()
        cache.update(before)


def _give_back_variables(owner: Any, before: Mapping[str, Any]) -> None:
    for name in [name for name, value in vars(owner).items() if _is_fake(value)]:
        if name in before:
            setattr(owner, name, before[name])
        else:
            delattr(owner, name)
