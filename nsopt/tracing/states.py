"""Keep what a network stores, in modules and outside: a trace runs it often and leaves no mark.

Outside are such things as a list of features that a hook fills.
"""

import copyreg
import gc
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from threading import RLock
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MethodType,
    NoneType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from nsopt.isolation import host_state, restore_host_state
from nsopt.tracing.originals import copy_model, copy_shallow

_FOREIGN = {*sys.stdlib_module_names, "torch", "numpy", "nsopt"}  # whose code keeps nothing
_MOST = 3000  # objects that are looked at
_DICTS = dict, OrderedDict
_KINDS: tuple[Any, ...] = dict, list, set, deque
_HOLDERS = (*_KINDS, tuple, CellType, MethodType, partial, SimpleNamespace)
_watching = RLock()  # the class of all modules changes meanwhile
_sparing = RLock()
_spared: list[tuple[int, int, int]] = []  # the collector's thresholds before, once for each block
_NEVER = 2**31 - 1
_HELD = ("_parameters", "_buffers", "_modules")
_PLAIN = (OrderedDict, dict, list)
_TABLE = 10_000  # items of a vocabulary, of which only the outermost collection is copied
_SHARED = (Tensor, np.ndarray, fx.Graph)  # the nodes of a graph are linked to each other
_CONSTANT = {
    *(int, float, complex, str, bytes, bool, NoneType, type, range, FunctionType, MethodType),
    *(BuiltinFunctionType, torch.dtype, torch.device, torch.Size),
}


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
            _restore(item, before)


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

    Collections are read, and `_restore` fills them, without the methods of their own classes.
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


def _restore(item: Any, before: Any) -> None:
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


@contextmanager
def restore_modules(model: nn.Module) -> Iterator[None]:
    """Inside the block, modules work on copies of what they store; then they get it back.

    Tensors and arrays are not copied. Modules that another one hides in a list get their attributes
    back, too. An object that refuses to be copied stays. What hooks fill is not copied, because
    other code may read it, and gets its contents back.
    """
    gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    with restore_outside(list_hooks(model)) as outside, keep_random_numbers(), _keep_code(model):
        copier = _Copier(model, outside)
        try:
            copier.replace_all()
            random.seed(0)  # all runs drop the same layers
            np.random.seed(0)
            yield
        finally:
            _give_back(copier.held)
            for parameter, required, gradient in gradients:
                parameter.requires_grad, parameter.grad = required, gradient


@contextmanager
def keep_random_numbers() -> Iterator[None]:
    """Restore Python's and NumPy's random numbers at the end of the block."""
    before = host_state()
    try:
        yield
    finally:
        restore_host_state(before)


@contextmanager
def restore_tensors(model: nn.Module) -> Iterator[None]:
    """Inside the block, modules may get other tensors and sizes; then they get back their own.

    This copies none of what modules store, and is faster than `restore_modules`.
    """
    stores = [s for m in model.modules() for s in (vars(m), m._parameters, m._buffers)]
    held = [(store, dict(store)) for store in stores]
    with _keep_code(model):
        try:
            yield
        finally:
            _give_back(held)


@contextmanager
def _keep_code(model: nn.Module) -> Iterator[None]:
    """Restore the code of graphs at the end of the block: in another mode they may compile it."""
    kinds = {type(module) for module in model.modules() if isinstance(module, fx.GraphModule)}
    held = [(kind, kind.forward) for kind in kinds]
    try:
        yield
    finally:
        for kind, forward in held:
            kind.forward = forward  # each graph has a class of its own


@contextmanager
def follow_modules(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Inside the block, keep in `running` the paths of the running modules, the innermost last."""

    def leave(*_: Any) -> None:
        running.pop()

    hooks = []
    try:
        for path, module in model.named_modules():
            enter = module.register_forward_pre_hook(lambda *_, path=path: running.append(path))
            hooks += [enter, module.register_forward_hook(leave)]
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def watch_attributes(
    model: nn.Module, names: Mapping[str, Collection[str]]
) -> Iterator[set[tuple[str, str]]]:
    """Inside the block, collect which attributes code reads, as pairs of path and name.

    `names` are those to watch, by path. Properties of a class count as read.
    """
    paths = {id(model.get_submodule(path)): path for path in names}
    read = {
        (path, name)
        for path, attributes in names.items()
        for name in attributes
        if hasattr(getattr(type(model.get_submodule(path)), name, None), "__get__")
    }

    def note(module: nn.Module, name: str) -> None:
        path = paths.get(id(module))
        if path is not None and name in names[path]:
            read.add((path, name))

    with _calling_first("__getattribute__", note) if names else nullcontext():
        yield read


@contextmanager
def watch_writes(model: nn.Module, written: set[tuple[str, str]]) -> Iterator[None]:
    """Inside the block, add the attributes that code sets, as pairs of path and name."""
    paths = {id(module): path for path, module in model.named_modules()}

    def note(module: nn.Module, name: str, _value: Any) -> None:
        if id(module) in paths:
            written.add((paths[id(module)], name))

    with _calling_first("__setattr__", note):
        yield


@contextmanager
def _calling_first(method: str, note: Callable[..., None]) -> Iterator[None]:
    """Inside the block, modules call `note` before this method of nn.Module."""
    with _watching:
        inherited, before = method not in vars(nn.Module), getattr(nn.Module, method)

        def noted(module: nn.Module, *args: Any) -> Any:
            note(module, *args)
            return before(module, *args)

        try:
            setattr(nn.Module, method, noted)
            yield
        finally:
            if inherited:
                delattr(nn.Module, method)
            else:
                setattr(nn.Module, method, before)


@contextmanager
def spare_collector() -> Iterator[None]:
    """Inside the block, Python's garbage collector skips older objects: a pass takes a second."""
    with _sparing:
        before = _spared[0] if _spared else gc.get_threshold()
        _spared.append(before)
        gc.set_threshold(*before[:2], _NEVER)
    try:
        yield
    finally:
        with _sparing:
            _spared.pop()
            if not _spared:
                gc.set_threshold(*before)


def _give_back(held: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for store, before in held:
        store.clear()
        store.update(before)


class _Copier:
    """Replace what modules store by copies, except for some objects.

    Attributes:
        held: the attributes of each module, as it stores them and as they were.
    """

    def __init__(self, model: nn.Module, stay: Iterable[Any] = ()) -> None:
        self._waiting = list(model.modules())
        self._memo: dict[int, Any] = {id(item): item for item in (*self._waiting, *stay)}
        self._kept_alive: list[Any] = []  # else Python may reuse the ids
        self._shallow: list[Any] = []  # copies that hold what the originals hold
        self.held: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def replace_all(self) -> None:
        for module in self._waiting:  # grows where a module is found in a list
            store = vars(module)
            self.held.append((store, dict(store)))
            self._replace_values(store)
            while self._shallow:
                self._copy_contents(self._shallow.pop())

    def _replace_values(self, store: dict[str, Any]) -> None:
        for name, value in list(store.items()):
            if name in _HELD and type(value) is dict:  # of tensors and modules, which stay
                store[name] = dict(value)
            elif type(value) not in _CONSTANT:
                store[name] = self._copy(value)

    def _copy(self, value: Any) -> Any:
        if type(value) in _CONSTANT:
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        if type(value) is tuple:
            return tuple(map(self._copy, value))
        self._kept_alive.append(value)
        if type(value) in _PLAIN and not value:  # most are: each module has a dozen, for hooks
            self._memo[id(value)] = type(value)()
            return self._memo[id(value)]
        self._memo[id(value)] = value
        if isinstance(value, nn.Module):
            self._waiting.append(value)
        elif not isinstance(value, _SHARED):
            self._memo[id(value)] = made = copy_shallow(value)
            is_large = isinstance(made, dict | list) and len(made) > _TABLE
            if not (is_large or made is value or _is_deep(made, value)):
                self._shallow.append(made)
        return self._memo[id(value)]

    def _copy_contents(self, made: Any) -> None:
        """Replace what a shallow copy holds, without the methods that its class may override."""
        if isinstance(store := getattr(made, "__dict__", None), dict):
            self._replace_values(store)
        for name in copyreg._slotnames(type(made)):  # type: ignore[attr-defined]
            if hasattr(made, name):
                object.__setattr__(made, name, self._copy(getattr(made, name)))
        if isinstance(made, dict) and store is not made:
            for key, value in list(dict.items(made)):
                dict.__setitem__(made, key, self._copy(value))
        elif isinstance(made, list):
            list.__setitem__(
                made, slice(None), [self._copy(value) for value in list.__iter__(made)]
            )


def _is_deep(made: Any, value: Any) -> bool:
    """Return whether the class of an object copies what it holds, too."""
    stores = [getattr(owner, "__dict__", None) for owner in (made, value)]
    mine, theirs = (store if isinstance(store, dict) else {} for store in stores)
    return any(item is not theirs.get(name) for name, item in mine.items())
