"""A file from which an interrupted run continues, and checksums of code that it depends on."""

import dis
import hashlib
import io
import re
import sys
import time
import zlib
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from enum import Enum
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path, PurePath
from types import CodeType, EllipsisType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset

from nsopt.compute.device import memory_for
from nsopt.errors import NsoptError
from nsopt.files import is_installed, remove_of_killed, write_whole
from nsopt.inputs import checksum_of
from nsopt.models.architecture import Architecture
from nsopt.settings import differences
from nsopt.tracing.labels import is_of_user

State = dict[str, Any]
SECONDS_BETWEEN = 30.0  # minimum time between two writes of `save_when_due`
_CHECKSUM = b"nsopt checkpoint, sha256 "  # begins the first line; torch's content follows
_PLAIN = (
    *(bool, int, float, complex, str, bytes, range, slice, type(None), EllipsisType),
    *(torch.dtype, Enum, np.generic, PurePath),
)
_PARTS: dict[type, tuple[str, ...]] = {
    CodeType: ("co_code", "co_names", "co_varnames", "co_consts"),
    MethodType: ("__func__", "__self__"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    partial: ("func", "args", "keywords"),
    property: ("fget", "fset"),
    cached_property: ("func",),
    DataLoader: ("dataset", "batch_size"),
}
_OPEN = Namespace, SimpleNamespace, Dataset  # whose attributes count, whoever wrote the class
_ADDRESS = re.compile(" at 0x[0-9a-f]+")
_CHANGES = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "clear", "remove"}
_OF_MODULES = vars(nn.Module())
_KNOWN = {*sys.stdlib_module_names, "torch", "numpy", "nsopt"}  # packages that hold no data


class Checkpoint:
    """A file with the state of one run: tensors, numbers, text, and dicts and lists of these.

    It is written atomically, with a checksum, and belongs to the run that `identity` describes.
    Loading it for another run raises NsoptError.

    Args:
        path: the file; None to store nothing.
        identity: everything on which the state depends, JSON-safe.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._identity = dict(identity)
        self._saved_at = time.monotonic()

    def load(self, device: torch.device) -> State | None:
        """Return the last saved state, on `device`; None if nothing was saved.

        Raises:
            NsoptError: if another run saved it, or if the file is damaged.
        """
        if self._path is None:
            return None
        try:
            line, _, written = self._path.read_bytes().partition(b"\n")
            if line != _CHECKSUM + _digest(written):
                raise ValueError("checksum")
            stored = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
            identity, state = stored["identity"], stored["state"]
        except FileNotFoundError:
            return None
        except Exception:  # torch raises anything for a damaged file
            raise NsoptError(
                f"checkpoint {self._path} cannot be read: delete it to start over"
            ) from None
        changes = differences(self._identity, identity)
        if changes:
            raise NsoptError(
                f"checkpoint {self._path} was written by other settings ({'; '.join(changes)}): "
                "give the same settings, or delete it to start over"
            )

        def move(tensor: torch.Tensor) -> torch.Tensor:
            """Move a tensor, except states of random generators (uint8), which stay on the CPU."""
            return tensor if tensor.dtype == torch.uint8 else tensor.to(device)

        with memory_for(device, f"checkpoint {self._path}"):
            moved: State = tree_map_only(torch.Tensor, move, state)
        return moved

    def save_when_due(self, state: Callable[[], State]) -> None:
        """Save the result of `state`, but at most every 30 seconds."""
        if self._path is not None and time.monotonic() - self._saved_at >= SECONDS_BETWEEN:
            self.save(state())

    def save(self, state: State) -> None:
        if self._path is None:
            return
        content = io.BytesIO()
        torch.save({"identity": self._identity, "state": state}, content)
        written = content.getvalue()
        write_whole(self._path, _CHECKSUM + _digest(written) + b"\n" + written)
        self._saved_at = time.monotonic()

    @contextmanager
    def remove_on(self, error: type[Exception]) -> Iterator[None]:
        """Delete the file if the block raises `error`."""
        try:
            yield
        except error:
            self.remove()
            raise

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            remove_of_killed(self._path.parent)


def weights_checksum(model: nn.Module) -> int:
    return checksum_of(value for value in model.state_dict().values() if isinstance(value, Tensor))


def check_storable(model: nn.Module) -> None:
    """Raise NsoptError if a network's state holds what no file of weights may hold."""
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            file = io.BytesIO()
            try:
                torch.save(value, file)
                file.seek(0)
                torch.load(file, weights_only=True)
            except Exception:  # of pickle, or of the object itself
                raise NsoptError(
                    f"{name} of the model is a {type(value).__name__}, which no file of weights "
                    "may hold: let get_extra_state give tensors, numbers, texts or a dict of them"
                ) from None


def full_state(model: nn.Module) -> State:
    """Return a network's state, with the buffers that `state_dict` leaves out."""
    return model.state_dict() | hidden_buffers(model)


def hidden_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that `state_dict` leaves out, by name."""
    known, named = model.state_dict().keys(), model.named_buffers(remove_duplicate=False)
    return {name: buffer for name, buffer in named if name not in known}


def load_full_state(model: nn.Module, state: State) -> None:
    """Load what `full_state` returned, with the buffers that runs removed, reshaped or made."""
    match_buffers(model, state)
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    for name, buffer in hidden_buffers(model).items():
        buffer.data = state[name].to(buffer.device, copy=True)


def match_buffers(model: nn.Module, state: State) -> None:
    """Replace the buffers of a model that `full_state` of another has in another form."""
    tensors = *model.parameters(), *model.buffers()
    device = tensors[0].device if tensors else None
    for name in sorted(state.keys() - full_state(model).keys()):
        path, _, leaf = name.rpartition(".")
        if leaf not in (module := model.get_submodule(path))._buffers:
            module.register_buffer(leaf, None, persistent=False)
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            stored = state.get(f"{path}.{name}" if path else name)
            if stored is None:
                module._buffers[name] = None
            elif buffer is None or (buffer.shape, buffer.dtype) != (stored.shape, stored.dtype):
                module._buffers[name] = stored.to(device, copy=True)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def identify_code(arch: Architecture) -> int | None:
    """Return a checksum of the code of a network, not of its weights; None for a built-in.

    What modules print counts, such as the rate of a dropout, and so do their attributes, but for
    those that they set as they run, and the buffers that no file of weights holds.
    """
    if arch.is_built_in:
        return None
    reader = CodeReader(weights=False)
    return zlib.crc32(repr(reader.open_modules(arch.template, arch.written)).encode())


class CodeReader:
    """Reads checksums of numbers, tensors, functions with their code, and objects.

    Code of installed packages counts by its name. Of the user's functions count instructions and
    constants, defaults, and what they read around them and in their module, but not what they
    change there, such as counters; of objects the class and the attributes. Lines and comments do
    not count.

    Args:
        weights: whether the state of a module counts.

    Attributes:
        unread: names of what a checksum does not show.
    """

    def __init__(self, weights: bool = True) -> None:
        self._weights = weights
        self._known: dict[int, tuple[int, Any]] = {}  # by address, with the value, which keeps it
        self.unread: set[str] = set()

    def read(self, value: Any) -> int:
        """Return the checksum of a value."""
        if id(value) not in self._known:
            self._known[id(value)] = 0, value  # it may hold itself
            text = repr([type(value).__qualname__, self._open(value)])
            self._known[id(value)] = zlib.crc32(text.encode(errors="surrogatepass")), value
        return self._known[id(value)][0]

    def _open(self, value: Any) -> Any:
        """Return what identifies a value, with checksums of its parts."""
        opened: Any
        match value:
            case _ if isinstance(value, _PLAIN):
                opened = repr(value)
            case Tensor():
                shape = None if value.is_nested else value.shape
                opened = value.dtype, shape, checksum_of([] if value.is_meta else [value])
            case np.ndarray() if not value.dtype.hasobject:
                opened = value.dtype.str, value.shape, zlib.crc32(value.tobytes())
            case list() | tuple() | deque() | np.ndarray():
                plain = all(isinstance(element, _PLAIN) for element in value)
                opened = repr(value) if plain else list(map(self.read, value))
            case set() | frozenset():
                opened = sorted(map(self.read, value))
            case Mapping():
                opened = [(self.read(key), self.read(item)) for key, item in value.items()]
            case FunctionType():
                opened = self._open_function(value)
            case type():
                members = [
                    (name, self.read(member))
                    for name, member in _list_members(value)
                    if name[:2] != "__" or callable(member)
                ]
                opened = value.__module__ * (not members), value.__qualname__, members
            case nn.Module():
                opened = self.open_modules(value)
            case _:
                opened = self._open_object(value)
        return opened

    def _open_function(self, function: FunctionType) -> Any:
        code, own = function.__code__, dict(vars(function))
        if not _is_own_file(code.co_filename):
            wrapped = own.get("__wrapped__")  # as by torch.no_grad()
            return function.__qualname__, self.read(wrapped) if wrapped else function.__module__
        codes = list(_list_codes(code))
        names = dict.fromkeys(name for inner in codes for name in inner.co_names)
        around = {name: function.__globals__.get(name) for name in names}
        for module in [item for item in around.values() if isinstance(item, ModuleType)]:
            if _is_own(module.__name__):
                around |= {name: item for name, item in vars(module).items() if name in names}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # of a variable without a value
                around[name] = cell.cell_contents
        changed = set[str]().union(*map(_find_changed, codes))
        read = [(name, self.read(item)) for name, item in around.items() if name not in changed]
        parts = code, function.__defaults__, function.__kwdefaults__, own
        return [*map(self.read, parts), read]

    def _open_object(self, value: Any) -> Any:
        kind: Any = type(value)
        for part, names in _PARTS.items():
            if isinstance(value, part):
                return [self.read(getattr(value, name)) for name in names]
        if _is_own(kind.__module__) or isinstance(value, _OPEN) or is_dataclass(kind):
            return self.read(kind), self._read_attributes(value)
        named = value if hasattr(value, "__qualname__") else kind
        module, name = getattr(named, "__module__", None) or "builtins", named.__qualname__
        if module.partition(".")[0] not in _KNOWN:
            self.unread.add(f"{module}.{name}")
        return module, name

    def open_modules(self, model: nn.Module, left_out: Collection[tuple[str, str]] = ()) -> Any:
        """Return what identifies a module, without attributes of modules by path and name."""
        state = (full_state(model) if self._weights else hidden_buffers(model)).values()
        tensors = [value for value in state if isinstance(value, Tensor) and not value.is_meta]
        return checksum_of(tensors), [
            (
                _ADDRESS.sub("", f"{type(module).__qualname__}({module.extra_repr()})"),
                self.read(type(module)),
                self._read_attributes(module, {name for at, name in left_out if at == path}),
            )
            for path, module in model.named_modules()
        ]

    def _read_attributes(self, value: Any, left_out: Collection[str] = ()) -> list[Any]:
        """Return the attributes; of modules without those that all have."""
        known = {*left_out, *(_OF_MODULES if isinstance(value, nn.Module) else ())}
        private, kind = _is_own(type(value).__module__), type(value)
        names = [name for base in kind.__mro__ for name in vars(base).get("__slots__", ())]
        slots = {name: getattr(value, name) for name in names if hasattr(value, name)}
        return [
            (name, self.read(item))
            for name, item in (getattr(value, "__dict__", {}) | slots).items()
            if name not in known and (private or name[:1] != "_")
            if not isinstance(getattr(kind, name, None), cached_property)
        ]


def _list_members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield what the user's classes among a class and its bases define, by name."""
    for base in kind.__mro__:
        if _is_own(base.__module__):
            yield from vars(base).items()


def _list_codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function, and of the functions in it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _list_codes(inner)


def _find_changed(code: CodeType) -> set[str]:
    """Return the names of variables that code sets, or whose collections it changes."""
    steps = list(dis.get_instructions(code))
    changed = {step.argval for step in steps if step.opname in ("STORE_GLOBAL", "STORE_DEREF")}
    stored = [_find_start(step) for step in steps if step.opname == "STORE_SUBSCR"]
    for step, after in pairwise(steps):
        if step.opname.startswith("LOAD_") and isinstance(step.argval, str):
            is_method = after.opname in ("LOAD_ATTR", "LOAD_METHOD") and after.argval in _CHANGES
            if is_method or _find_start(step) in stored:
                changed.add(step.argval)
    return changed


def _find_start(step: dis.Instruction) -> tuple[Any, ...] | None:
    """Return where the expression of an instruction begins: a container where its item does."""
    return step.positions and (step.positions.lineno, step.positions.col_offset)


def _is_own(module: str) -> bool:
    """Return whether a module is the user's: neither of an installed package nor of nsopt."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return module == "__main__" or (file is not None and _is_own_file(file))


def _is_own_file(name: str) -> bool:
    return is_of_user(name) and not is_installed(Path(name))
