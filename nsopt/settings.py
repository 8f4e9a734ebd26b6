"""Validated, immutable settings, and checks of the arguments of public functions.

A mistake raises an error of one line, which names the setting or argument. This never imports
torch.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    ParamSpec,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
Fraction = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["auto", "fp32", "bf16"]
BATCH_SIZE = 100  # images per timed pass, as in the paper (section 4.2)
Price = Literal["filters", "params", "macs"]


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


class Timed(NamedTuple):
    """What milliseconds are of: the name of a runtime, and the examples of a pass."""

    runtime: str
    batch_size: int


def batch_unit(size: int) -> str:
    """Return the unit of latencies of batches of so many images."""
    return f"ms per batch of {size}"


class Settings(BaseModel):
    """Base of all settings. Raises NsoptError for an unknown name or a value out of range."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"][:1])
            inner = first.get("ctx", {}).get("error")
            if isinstance(inner, NsoptError):
                raise NsoptError(f"{name}.{inner}" if name else str(inner)) from None
            value, reason = shorten(first["input"]), first["msg"].lower()
            raise NsoptError(f"{name} = {value}: {reason}") from None

    def updated(self, **changes: Any) -> Self:
        """Return a validated copy with `changes`."""
        return type(self)(**{**dict(self), **changes})


class SgdSettings(Settings):
    """Settings of stochastic gradient descent, for searching and training.

    Attributes:
        batch_size: images per batch.
        lr: initial learning rate. Presets: smoke and tiny 0.02, quick 0.05, fast and paper 0.1,
            compress 0.003, of AdamW; in searches 0.05, paper 0.1.
        momentum: of the optimizer.
        weight_decay: of the optimizer.
        val_fraction: part of the training images that is held out for validation.
        seed: random seed of weights, batches and augmentation; of several trainings, that of the
            first one.
        device: as torch names it, or auto.
        precision: number format of matrix products; `auto` takes bf16 where it is fast.
        resized_crop: augment with random resized crops of at least this part of an image's area,
            such as 0.35. None shifts images by up to 4 pixels. Both mirror images at random.
    """

    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    val_fraction: Fraction = 0.1
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    device: str = "auto"
    precision: Precision = "auto"
    resized_crop: Fraction | None = None


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Return one `name: OURS now, THEIRS there` for each setting that differs, also nested."""
    changed = []
    for name in sorted(ours.keys() | theirs.keys()):
        our, their = ours.get(name), theirs.get(name)
        if isinstance(our, dict) and isinstance(their, dict):
            changed += differences(our, their, f"{prefix}{name}.")
        elif our != their:
            changed.append(f"{prefix}{name}: {our} now, {their} there")
    return changed
