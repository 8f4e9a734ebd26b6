"""Recognise the code of a traced network."""

import ast
import inspect
import textwrap
import zlib
from functools import cache
from pathlib import Path

from nsopt.files import is_installed
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
    try:
        if is_installed(Path(inspect.getfile(kind))):
            return ""
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(kind))))
    except (OSError, TypeError, SyntaxError):
        return ""
