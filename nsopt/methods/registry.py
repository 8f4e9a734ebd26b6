"""Methods by name: built-in ones, registered ones, and those of installed packages.

A package adds a method as an entry point of the group `nsopt.methods`: a `Method`, or a subclass
whose constructor takes no arguments.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points

from nsopt.errors import NsoptError, unknown_name
from nsopt.methods.base import Method
from nsopt.methods.built_in import Dense, Magnitude, MorphNet, NeuralScale, Uniform
from nsopt.settings import checked
from nsopt.storage import schema

_GROUP = "nsopt.methods"
COMPARED = ("uniform", "neuralscale")  # by `nsopt.compare`, if the user names no methods
BASELINE: Method = Uniform()  # to which reports compare the others
LAW_OF_SEARCH: Method = NeuralScale()  # its law is that of the search
DENSE: Method = Dense()  # its network is the trained one that a study starts from
_registered: dict[str, Method] = {}
_LABELS = {  # of the widths of a compression
    schema.FIT: "Fit",
    f"{schema.FIT}{schema.HALFWAY}": "Halfway from fit to uniform",
    schema.TAYLOR: "Taylor importance",
    f"{schema.TAYLOR}{schema.HALFWAY}": "Halfway from Taylor importance to uniform",
}


@checked
def register_method(method: Method) -> None:
    """Make a method available in this process under its name.

    Worker processes know a method only if an installed package has it as an entry point.

    Args:
        method: an instance of a subclass of `Method`.

    Raises:
        NsoptError: if the name is taken, or cannot be part of a study's name.

    Examples:
        >>> class DeepFirst(nsopt.Method):
        ...     name, label = "deep-first", "Deep layers first"
        ...
        ...     def law(self, inputs):
        ...         widths = inputs.arch.base_widths
        ...         return nsopt.uniform_curve([w * (i + 1) for i, w in enumerate(widths)])
        >>> nsopt.register_method(DeepFirst())
    """
    _check_name(method.name, methods())
    _registered[method.name] = method


def methods() -> dict[str, Method]:
    """Return all methods by name, baselines first."""
    return _built_in() | _load_entry_points() | _registered


def get_method(name: str) -> Method:
    """Return the method or variant `name`. Raises NsoptError if there is none."""
    known = methods()
    method = _find(name, known)
    if method is None:
        variants = [f"neuralscale-{kind}" for kind in ("params", "macs", "iterN")]
        raise unknown_name("method", name, [*known, *variants])
    return method


def get_methods(names: Sequence[str]) -> tuple[Method, ...]:
    """Return the methods of these names, each once. Raises NsoptError for an unknown or no name."""
    by_name = {name: get_method(name) for name in names}
    if not by_name:
        raise NsoptError(f"no methods given: known are {', '.join(methods())}")
    return tuple(by_name.values())


def is_method(name: str) -> bool:
    return _find(name, methods()) is not None


def method_label(name: str) -> str:
    """Return a method's label in reports; its name if it is not installed here."""
    return get_method(name).label if is_method(name) else _LABELS.get(name, name)


def method_order(names: Sequence[str]) -> list[str]:
    """Sort `names` as reports do: those of `report_order`, then variants and others."""
    known = [name for name in report_order() if name in names]
    return known + sorted(set(names) - set(known))


def report_order() -> list[str]:
    """Return all methods, baselines first, and the kinds of widths of a compression."""
    return [*_built_in(), *schema.RANKED, *_load_entry_points(), *_registered]


def _find(name: str, known: Mapping[str, Method]) -> Method | None:
    """Return the method of this name, or the variant of one of the `known` methods, if any."""
    if name in known:
        return known[name]
    variants = (method.variant(name) for method in known.values())
    return next((variant for variant in variants if variant is not None), None)


def _check_name(name: str, known: Mapping[str, Method]) -> None:
    """Raise NsoptError if a new method cannot have this name among the `known` ones."""
    if not name or set(name) & set("/, "):
        raise NsoptError(f"a method cannot be named {name!r}: no slash, comma or space")
    if schema.is_reserved(name):
        raise NsoptError(f"a method cannot be named {name!r}: nsopt uses this name itself")
    if _find(name, known) is not None:
        raise NsoptError(f"a method {name!r} already exists: give another name")


@cache
def _built_in() -> dict[str, Method]:
    built_in = (BASELINE, Magnitude(), MorphNet(), LAW_OF_SEARCH, DENSE)
    return {method.name: method for method in built_in}


@cache
def _load_entry_points() -> dict[str, Method]:
    """Load the methods of packages. Raises NsoptError for an entry point that cannot be used."""
    by_name: dict[str, Method] = {}
    for point in entry_points(group=_GROUP):
        try:
            loaded = point.load()
            method = loaded() if isinstance(loaded, type) else loaded
            if not isinstance(method, Method):
                raise NsoptError("it is not an nsopt Method")
            _check_name(method.name, _built_in() | by_name)
        except Exception as error:
            kind = "" if isinstance(error, NsoptError) else f"{type(error).__name__}: "
            reason = " ".join(f"{kind}{error}".split())
            raise NsoptError(
                f"the method {point.value} of an installed package cannot be used ({reason}): "
                "update or uninstall the package"
            ) from error
        by_name[method.name] = method
    return by_name
