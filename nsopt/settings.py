"""Validated, immutable settings whose mistakes read as one line."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from nsopt.errors import NsoptError


class Settings(BaseModel):
    """Base of all settings. Raises NsoptError for an unknown name or a value out of range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise NsoptError(f"{name} = {first['input']!r}: {first['msg'].lower()}") from None

    def updated(self, **changes: Any) -> Self:
        """A validated copy with `changes`."""
        return type(self)(**{**self.model_dump(), **changes})


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """`name: ours here, theirs there` for every setting that differs, nested ones included."""
    found = []
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(name), theirs.get(name)
        if isinstance(mine, dict) and isinstance(other, dict):
            found += differences(mine, other, f"{prefix}{name}.")
        elif mine != other:
            found.append(f"{prefix}{name}: {mine} now, {other} there")
    return found
