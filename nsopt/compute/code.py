"""Recognise the code of a traced network."""

import ast
import inspect
import re
import zlib
from argparse import Namespace
from collections import deque
from contextlib import suppress
from enum import Enum
from functools import cache, partial
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from torch import nn

from nsopt.compute.checkpoint import hidden_buffers
from nsopt.data.checksum import checksum_of
from nsopt.files import is_installed
from nsopt.models.architecture import Architecture
from nsopt.models.tracing.architecture import TracedArchitecture

_DEPTH = 5  # of lists and configurations in each other
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|meta)(:\d+)?")


def identify_code(arch: Architecture) -> int | None:
    """Return a checksum of the classes of a traced network's modules; None for a built-in one.

    What modules print counts, such as the rate of a dropout, and so do the numbers, texts and
    functions (code and constants) in their public attributes, also in lists, dictionaries and
    configurations, and the buffers that no file of weights holds. The code of classes that are not
    of an installed package counts without its comments and docstrings. What it calls elsewhere does
    not count, nor do other tensors and what modules set as they run or change their mode.
    """
    if not isinstance(arch, TracedArchitecture):
        return None
    template = arch.network.template
    modules = dict(template.named_modules())
    left_out = arch.network.trace.written | {(path, "training") for path in modules}
    printed = [f"{type(module).__qualname__}({module.extra_repr()})" for module in modules.values()]
    named = [re.sub(" at 0x[0-9a-f]+", "", text) for text in printed]
    stored = [
        _describe({k: v for k, v in vars(module).items() if (path, k) not in left_out}, _DEPTH)
        for path, module in modules.items()
    ]
    buffers = checksum_of(value for value in hidden_buffers(template).values() if not value.is_meta)
    kinds = dict.fromkeys(map(type, modules.values()))
    code = [_read_code(base) for kind in kinds for base in kind.__mro__]
    return zlib.crc32(repr((named, stored, buffers, list(filter(None, code)))).encode())


def _describe(value: Any, depth: int) -> Any:
    """Return what identifies an attribute; None for what does not, such as names of devices."""
    identity: Any = None
    kind: Any = type(value)
    match value:
        case bool() | int() | float() | complex() | range() | slice() | bytes() | torch.dtype():
            identity = value
        case str() if not _DEVICE.fullmatch(value):
            identity = value
        case np.generic() | np.ndarray() if not value.dtype.hasobject:
            identity = value.dtype.str, value.shape, zlib.crc32(value.tobytes())
        case Enum():
            identity = value.name
        case type() | BuiltinFunctionType() | MethodDescriptorType():
            identity = value.__qualname__
        case FunctionType() | MethodType():
            constants = _describe(_read_constants(value), depth)
            identity = [getattr(value, "__qualname__", ""), constants]
        case partial():
            identity = _describe([value.func, value.args, value.keywords], depth)
        case list() | tuple() | deque() if depth:
            identity = [_describe(element, depth - 1) for element in value]
        case dict() if depth:
            public = [(key, item) for key, item in value.items() if str(key)[:1] != "_"]
            pairs = [[_describe(each, depth - 1) for each in pair] for pair in public]
            identity = [pair for pair in pairs if None not in pair]
        case set() | frozenset() if depth:
            identity = sorted(repr(_describe(element, depth - 1)) for element in value)
        case SimpleNamespace() | Namespace() if depth:
            identity = _describe(vars(value), depth)
        case _ if depth and not isinstance(value, nn.Module) and _read_code(kind):
            identity = _describe(getattr(value, "__dict__", None), depth)
    return identity


def _read_constants(function: FunctionType | MethodType) -> list[Any]:
    """Return the instructions of a user's function, its defaults, the variables around it, and the
    object of a method."""
    own = [getattr(function, name, None) for name in ("__defaults__", "__kwdefaults__", "__self__")]
    with suppress(ValueError):  # of a variable without a value
        own += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    code = getattr(function, "__code__", None)  # none of a method that binds a built-in function
    if code is not None and not is_installed(Path(code.co_filename)):
        codes = [code]
        for inner in codes:
            codes += [value for value in inner.co_consts if isinstance(value, CodeType)]
            own += [inner.co_code, inner.co_names, inner.co_consts]
    return own


@cache
def _read_code(kind: type) -> str:
    """Return the code of a user's class; "" if it is of a package, or unknown, as in a notebook."""
    try:
        if is_installed(Path(inspect.getfile(kind))):
            return ""
        text = inspect.getsource(kind)
        tree = ast.parse(f"if True:\n{text}" if text[0].isspace() else text)
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
