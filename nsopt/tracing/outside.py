"""What the code of a network keeps outside its modules, such as features that a hook collects."""

import gc
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.tracing.originals import copy_model

_FOREIGN = {*sys.stdlib_module_names, "torch", "numpy", "nsopt"}  # whose code keeps nothing
_MOST = 3000  # objects that are looked at
_DICTS = dict, OrderedDict
_KINDS: tuple[Any, ...] = dict, list, set, deque
_HOLDERS = (*_KINDS, tuple, CellType, MethodType, partial, SimpleNamespace)


@contextmanager
def borrow(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy of a network, in evaluation mode; its runs leave no mark on what is outside."""
    copied = copy_model(model).eval()
    modules = list(copied.modules())
    methods = [value for module in modules for value in vars(module).values() if callable(value)]
    with restore_outside([*list_hooks(copied), *methods, *map(type, modules)]):
        yield copied


def list_hooks(model: nn.Module) -> list[Any]:
    """Return the hooks of all modules."""
    stored = [item for module in model.modules() for item in vars(module).items()]
    stores = [store for name, store in stored if name.endswith("_hooks") and type(store) in _DICTS]
    return [hook for store in stores for hook in store.values()]


@contextmanager
def restore_outside(roots: Iterable[Any]) -> Iterator[list[Any]]:
    """Inside the block, code may change what it reaches from `roots`; then all of it is as before.

    Yields all that it reaches: by variables around it, defaults, attributes and globals.
    """
    waiting, found = deque(roots), dict[int, Any]()
    while waiting and len(found) < _MOST:
        item = waiting.popleft()
        if id(item) not in found and _is_own(item):
            found[id(item)] = item
            waiting.extend(_list_parts(item))
    held = [(item, _read(item)) for item in found.values()]
    try:
        yield list(found.values())
    finally:
        for item, before in held:
            _give_back(item, before)


def _is_own(item: Any) -> bool:
    """Return whether an object is of the user's code, or may hold one that is."""
    if isinstance(item, Tensor):
        return type(item) is Tensor and item.layout == torch.strided and not item.is_meta
    named = item if isinstance(item, type | FunctionType) else type(item)
    is_foreign = str(named.__module__).partition(".")[0] in _FOREIGN
    return isinstance(item, _HOLDERS) or not (is_foreign or isinstance(item, nn.Module))


def _list_parts(item: Any) -> list[Any]:
    """Return what an object holds; of files, only what functions name."""
    if isinstance(item, Tensor):
        return []
    if isinstance(item, FunctionType):
        held = item.__defaults__, item.__kwdefaults__, vars(item)
        return [*(item.__closure__ or ()), *held, *_read(item).values()]
    if isinstance(item, type):
        return [*vars(item).values(), *item.__bases__]
    return [*gc.get_referents(item), getattr(item, "__dict__", None)]


def _find_names(code: CodeType) -> set[str]:
    """Return the names of globals and attributes in a function and those inside of it."""
    inner = [_find_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


def _read(item: Any) -> Any:
    """Return what a collection, variable, tensor or class holds, or globals that a function names.

    Collections are read, and `_give_back` fills them, without the methods of their own classes.
    """
    if isinstance(item, Tensor):
        return item.detach().clone()
    if isinstance(item, FunctionType):
        file = item.__globals__
        return {name: file[name] for name in _find_names(item.__code__) & file.keys()}
    if isinstance(item, type):
        return dict(vars(item))
    if base := _find_base(item):
        return dict(base.items(item)) if base is dict else list(base.__iter__(item))
    return gc.get_referents(item) if isinstance(item, CellType) else []


def _find_base(item: Any) -> Any:
    return next((kind for kind in _KINDS if isinstance(item, kind)), None)


def _give_back(item: Any, before: Any) -> None:
    if isinstance(item, Tensor):
        if not torch.equal(item, before):
            item.detach().copy_(before)
        return
    now = _read(item)
    if _flatten(now) == _flatten(before):
        return
    if base := _find_base(item):
        base.clear(item)
        (base.extend if base in (list, deque) else base.update)(item, before)
    elif isinstance(item, CellType):
        item.cell_contents = before[0]
    elif isinstance(item, FunctionType):
        for name in now.keys() - before.keys():
            del item.__globals__[name]
        item.__globals__.update(before)
    else:
        for name in now.keys() - before.keys():
            delattr(item, name)
        for name, value in before.items():
            if now.get(name) is not value:
                setattr(item, name, value)


def _flatten(content: Any) -> list[int]:
    """Return the identities of all that a collection holds."""
    return list(map(id, [*content, *content.values()] if isinstance(content, dict) else content))
