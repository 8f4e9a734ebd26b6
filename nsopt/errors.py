"""Errors for users: each message is one line that says what is wrong and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class NsoptError(ValueError):
    """A mistake that the user can fix. The command line prints its message and exits with 2.

    The other errors of nsopt are subclasses, in `nsopt.errors`: `NoWidthsError`,
    `ShortRecordError`, `NonFiniteLossError` and `OutOfMemoryError`.
    """


class OutOfMemoryError(NsoptError):
    """The device has too little memory for a batch."""


class StorageError(NsoptError):
    """The storage of results failed, or its server did not answer for some minutes."""


class DeterministicError(NsoptError):
    """An error that the same settings always raise. Such a trial is not retried."""


class NonFiniteLossError(DeterministicError):
    """Training diverged: the loss, a weight or the score is NaN or infinite."""


class ShortRecordError(DeterministicError):
    """A prune record has too few rows for a law."""


class NoWidthsError(DeterministicError):
    """A method has no law, or no widths that fit the budget."""


DISK_IS_FULL = "make room and run the same command again"
_MOST_NAMES = 20
_LONGEST = 60


def unknown_name(kind: str, name: object, known: Iterable[str]) -> NsoptError:
    """Return an error for a name that is not in `known`; it suggests the nearest known name."""
    names = sorted(known)
    nearest = get_close_matches(str(name)[:_LONGEST].lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    known_are = f"known are {', '.join(names)}" if 0 < len(names) <= _MOST_NAMES else ""
    return NsoptError(f"unknown {kind} {shorten(name)}: {hint}{known_are}".rstrip(": "))


def shorten(value: object) -> str:
    """Return `repr(value)` on one line; the middle of a long one is left out."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return f"an integer of {value.bit_length():,} bits"  # type: ignore[attr-defined]
    return text if len(text) <= _LONGEST else f"{text[:40]}...{text[-10:]}"


def short_reason(error: BaseException) -> str:
    """Return the first line of an error's reason or text; without any, the name of its type."""
    lines = str(getattr(error, "reason", error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
