"""Recognise the code of a traced network."""

import ast
import inspect
import sysconfig
import textwrap
import zlib
from functools import cache
from pathlib import Path

from nsopt.models.architecture import Architecture
from nsopt.models.tracing.architecture import TracedArchitecture


def identify_code(arch: Architecture) -> int | None:
    """Return a checksum of the classes of a traced network's modules; None for a built-in one.

    The code of classes that are not of an installed package counts without its comments. What it
    calls elsewhere does not count.
    """
    if not isinstance(arch, TracedArchitecture):
        return None
    kinds = [type(module) for module in arch.network.template.modules()]
    named = [kind.__qualname__ for kind in kinds]
    code = [_read_code(each) for kind in dict.fromkeys(kinds) for each in kind.__mro__]
    return zlib.crc32(repr((named, list(filter(None, code)))).encode())


@cache
def _read_code(kind: type) -> str:
    """Return the code of a user's class; "" if it is of a package, or unknown, as in a notebook."""
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    try:
        file = Path(inspect.getfile(kind))
        if any(file.is_relative_to(folder) for folder in installed):
            return ""
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(kind))))
    except (OSError, TypeError, SyntaxError):
        return ""
