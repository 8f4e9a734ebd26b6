"""The methods by name: those built in, those registered, and those that packages bring.

A package brings methods as entry points of the group `nsopt.methods`: each is a `Method`, or a
class of one that is made without arguments.
"""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points

from nsopt.errors import NsoptError, unknown_name
from nsopt.methods.base import Method
from nsopt.methods.dense import Dense
from nsopt.methods.magnitude import Magnitude
from nsopt.methods.morphnet import MorphNet
from nsopt.methods.neuralscale import NeuralScale
from nsopt.methods.tuned import Tuned
from nsopt.methods.uniform import Uniform
from nsopt.storage.schema import is_reserved

_GROUP = "nsopt.methods"
_registered: dict[str, Method] = {}


def register_method(method: Method) -> None:
    """Make `method` known to this process under its name.

    Worker processes know it if a package brings it.

    Raises:
        NsoptError: if the name is taken, or cannot be part of the name of a study.
    """
    if not method.name or set(method.name) & set("/, "):
        raise NsoptError(f"a method cannot be named {method.name!r}: no slash, comma or space")
    if is_reserved(method.name):
        raise NsoptError(f"a method cannot be named {method.name!r}: nsopt uses this name itself")
    if method.name in methods():
        raise NsoptError(f"there is a method {method.name!r} already: give another name")
    _registered[method.name] = method


def methods() -> dict[str, Method]:
    """All methods by name, baselines first."""
    return _built_in() | _brought() | _registered


def get_method(name: str) -> Method:
    """The method `name`, which may be a variant of one; NsoptError if there is none."""
    known = methods()
    if name in known:
        return known[name]
    variants = (method.variant(name) for method in known.values())
    found = next((variant for variant in variants if variant is not None), None)
    if found is None:
        raise unknown_name("method", name, known)
    return found


def baseline() -> Method:
    """The method that others are measured against."""
    return Uniform()


def law_of_search() -> Method:
    """The method whose law is that of the search."""
    return NeuralScale()


def get_methods(names: Sequence[str]) -> tuple[Method, ...]:
    """The methods of these names without repetitions; NsoptError for an unknown one, or none."""
    found = {name: get_method(name) for name in names}
    if not found:
        raise NsoptError(f"no methods given: known are {', '.join(methods())}")
    return tuple(found.values())


def is_method(name: str) -> bool:
    """Whether `get_method` knows it."""
    try:
        get_method(name)
    except NsoptError:
        return False
    return True


def method_label(name: str) -> str:
    """A method's name in reports; one that is not installed here goes by its word."""
    return get_method(name).label if is_method(name) else name


def method_order(names: Sequence[str]) -> list[str]:
    """`names` in the order of a report: those of `methods`, then their variants and others."""
    known = [name for name in methods() if name in names]
    return known + sorted(set(names) - set(known))


@cache
def _built_in() -> dict[str, Method]:
    built_in = (Uniform(), Magnitude(), MorphNet(), NeuralScale(), Tuned(), Dense())
    return {method.name: method for method in built_in}


@cache
def _brought() -> dict[str, Method]:
    """What packages bring. NsoptError for an entry point that is not a method."""
    found = {}
    for point in entry_points(group=_GROUP):
        loaded = point.load()
        method = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(method, Method):
            raise NsoptError(f"entry point {point.value} of {_GROUP} is not an nsopt Method")
        found[method.name] = method
    return found
