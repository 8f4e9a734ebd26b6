"""Read the values of a storage; report a damaged value in one line."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Generic, TypeVar

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from pydantic import TypeAdapter, ValidationError

from nsopt.errors import NsoptError, StorageError, short_reason
from nsopt.storage.internals import trial_id

T = TypeVar("T")
Owner = Study | FrozenTrial | Trial


@contextmanager
def damage(owner: Owner, name: str) -> Iterator[None]:
    """Turn errors of the block into an NsoptError that names the damaged value and its owner."""
    try:
        yield
    except StorageError:  # it cannot be read at all
        raise
    except Exception as error:
        where = (
            f"study {owner.study_name}"
            if isinstance(owner, Study)
            else f"trial {owner.number} (trial_id {trial_id(owner)})"
        )
        raise NsoptError(
            f"{where}: its {name!r} is damaged ({_describe(error)}): restore the storage from a "
            "copy, or start again with another out= or storage="
        ) from None


def _describe(error: Exception) -> str:
    if isinstance(error, ValidationError):
        last = error.errors(include_url=False, include_input=False)[-1]
        return ": ".join([*map(str, last["loc"]), last["msg"].lower()])
    return short_reason(error)


def read(owner: Owner, name: str, kind: Any, values: Mapping[str, Any] | None = None) -> Any:
    """Return a value of a study or a trial.

    Args:
        kind: the type that the value must have, as JSON.
        values: where to find it; by default in the attributes of the owner.

    Raises:
        NsoptError: if it is missing or of another type.
    """
    with damage(owner, name):
        value = (owner.user_attrs if values is None else values).get(name)
        return _make_reader(kind).validate_json(json.dumps(value), strict=True)


@cache
def _make_reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class Attribute(Generic[T]):
    """An attribute of studies or trials; pydantic reads and writes its value as a type, `kind`."""

    def __init__(self, name: str, kind: Any) -> None:
        self.name, self._kind = name, kind

    def read(self, owner: Owner) -> T | None:
        """Return the value; None if it is missing. Raises NsoptError if it is damaged."""
        value: T | None = read(owner, self.name, self._kind | None)
        return value

    def write(self, owner: Study | Trial, value: T) -> None:
        owner.set_user_attr(self.name, _make_reader(self._kind).dump_python(value, mode="json"))
