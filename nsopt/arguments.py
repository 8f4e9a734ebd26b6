"""Name the argument of a public function that has the wrong type, in one sentence."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from nsopt.errors import NsoptError, shorten

P = ParamSpec("P")
R = TypeVar("R")
_WORDS: dict[Any, str] = {
    **{bool: "True or False", int: "a whole number", float: "a number", str: "text"},
    **{Path: "a path", NoneType: "None", Callable: "a function", Sequence: "a list"},
    **{tuple: "a tuple", Iterable: "a list", Mapping: "a dictionary"},
}
_OWN = {
    "Architecture": "an architecture, which nsopt.trace returns",
    "ndarray": "an array",
}
_SCALARS = {bool, int, float, str, Path, NoneType, Literal}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a public function refuse arguments of the wrong type.

    Numbers, text, paths, and text in place of a list are checked before the call; numbers of NumPy
    become Python's. All others are only checked if the function raises an error that is not an
    NsoptError, because what works need not be of the annotated type.
    """
    signature = inspect.signature(function)

    def check(given: Mapping[str, Any], scalars_only: bool) -> None:
        for name, value in given.items():
            hint = signature.parameters[name].annotation
            hint = getattr(hint, "__bound__", None) or hint  # of a type variable
            is_sure = all((get_origin(part) or part) in _SCALARS for part in _split(hint))
            is_sure |= get_origin(hint) is Sequence and isinstance(value, str)
            if (is_sure or not scalars_only) and not _fits(value, hint):
                raise NsoptError(f"{name} must be {_describe(hint)}, not {shorten(value)}")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:  # Python explains missing arguments
            return function(*args, **kwargs)
        given = bound.arguments
        for name, value in given.items():
            if isinstance(value, Real) and hasattr(value, "item"):  # a number of NumPy
                given[name] = value.item()
        check(given, scalars_only=True)
        try:
            return function(*bound.args, **bound.kwargs)
        except NsoptError:
            raise
        except Exception:
            check(given, scalars_only=False)
            raise

    return call


def check_name(owner: str, name: object) -> None:
    """Raise NsoptError unless a name can be part of the names of studies."""
    if not isinstance(name, str) or not name or "/" in name:
        raise NsoptError(f"name of a {owner} must be a word without '/', not {shorten(name)}")


def _split(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the hint alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of an annotated type; True for types that cannot be checked."""
    parts = _split(hint)
    kind = get_origin(hint) or hint
    if len(parts) > 1:
        fits = any(_fits(value, part) for part in parts)
    elif kind is Literal:
        fits = any(type(value) is type(known) and value == known for known in get_args(hint))
    elif kind in (int, float):
        fits = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    elif kind in (Sequence, tuple):
        fits = _is_list(value, get_args(hint)[0] if get_args(hint) else Any)
    elif getattr(kind, "_is_protocol", False):
        fits = all(hasattr(value, name) for name in vars(kind) if not name.startswith("_"))
    else:
        is_unknown = kind in (Any, inspect.Parameter.empty) or not isinstance(kind, type)
        fits = is_unknown or isinstance(value, kind)
    return fits


def _is_list(value: Any, element: Any) -> bool:
    """Return whether a value is a list, a tuple or an array, with elements of an annotated type."""
    is_list = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    is_list = is_list and not isinstance(value, str | bytes | Mapping)
    return is_list and all(_fits(item, element) for item in value)


def _describe(hint: Any) -> str:
    """Return what an argument must be."""
    names = []
    for part in _split(hint):
        kind = get_origin(part) or part
        if kind is Literal:
            names += [repr(value) for value in get_args(part)]
        else:
            name = getattr(kind, "__name__", str(kind))
            names.append(_WORDS.get(kind, _OWN.get(name, name)))
    return " or ".join(dict.fromkeys(names))
