"""Recognise the code of a traced network."""

import ast
import inspect
import re
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from nsopt.compute.checkpoint import hidden_buffers
from nsopt.data.checksum import checksum_of
from nsopt.files import is_installed
from nsopt.models.architecture import Architecture
from nsopt.models.tracing.architecture import TracedArchitecture


def identify_code(arch: Architecture) -> int | None:
    """Return a checksum of the classes of a traced network's modules; None for a built-in one.

    What modules print counts, such as the rate of a dropout, and so do the numbers, texts and
    tensors in their public attributes, and the buffers that no file of weights holds. The code of
    classes that are not of an installed package counts without its comments and docstrings. What it
    calls elsewhere does not count.
    """
    if not isinstance(arch, TracedArchitecture):
        return None
    template = arch.network.template
    modules = [*template.modules()]
    printed = [f"{type(each).__qualname__}({each.extra_repr()})" for each in modules]
    named = [re.sub(" at 0x[0-9a-f]+", "", each) for each in printed]
    stored = [[pair for pair in vars(each).items() if _is_argument(*pair)] for each in modules]
    own = [vars(each)[name] for each in modules for name in vars(each) if not name.startswith("_")]
    tensors = [each for each in own if isinstance(each, Tensor)]
    tensors += hidden_buffers(template).values()
    numbers = checksum_of(each for each in tensors if not each.is_meta)
    kinds = dict.fromkeys(map(type, modules))
    code = [_read_code(each) for kind in kinds for each in kind.__mro__]
    return zlib.crc32(repr((named, stored, numbers, list(filter(None, code)))).encode())


def _is_argument(name: str, value: Any) -> bool:
    """Return whether an attribute is public, and a number, a text, or a list of those."""
    values = value if type(value) in (list, tuple) else [value]
    is_plain = all(isinstance(each, int | float | str) for each in values)
    return is_plain and not name.startswith("_") and name != "training"


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
