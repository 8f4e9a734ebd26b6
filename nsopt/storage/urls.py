"""Parse storage URLs, and hide their passwords in messages."""

import re
from itertools import chain
from pathlib import Path

import sqlalchemy
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from nsopt.errors import NsoptError

_HIDDEN = "***"
_SHORTEST = 4  # shorter values of a URL are not replaced in other text
_SCHEME = re.compile(r"[\w.+-]*")
_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(:\d*)?")  # with its port
_LARGEST_PORT = 65535
_GRPC, _JOURNAL = "grpc", "journal"
_KINDS = (
    "sqlite:///FILE, journal:///FILE, postgresql+psycopg://..., mysql+pymysql://... or grpc://..."
)
_FILES = ("sqlite", _JOURNAL)  # schemes of URLs that may name a file


def read_url(url: str) -> URL:
    """Parse a storage URL. Raises NsoptError if it is invalid."""
    try:
        parts = sqlalchemy.make_url(url)
        if parts.drivername not in (_GRPC, _JOURNAL):
            parts.get_dialect()
    except NoSuchModuleError:
        raise NsoptError(
            f"storage {hide_password(url)} is of an unknown kind: use {_KINDS}"
        ) from None
    except ArgumentError:
        raise NsoptError(
            f"storage {hide_password(url)!r} is not a database URL such as sqlite:///results.db"
        ) from None
    except ValueError:
        raise _make_error(url) from None
    if (parts.port or 0) > _LARGEST_PORT or (parts.host and "@" in f"{parts.host}{parts.database}"):
        raise _make_error(url)
    return parts


def _make_error(url: str) -> NsoptError:
    return NsoptError(
        f"storage {hide_password(url)} cannot be read: the port must be a number up to "
        f"{_LARGEST_PORT}, and an @ in the password must be written %40"
    )


def storage_file(url: str) -> Path | None:
    """Return the file of an SQLite database or a journal; None for servers."""
    return sqlite_path(url) or journal_path(url)


def sqlite_path(url: str) -> Path | None:
    """Return the file of an SQLite URL; None for other storages. Raises NsoptError if invalid."""
    parts = read_url(url)
    if parts.get_backend_name() != "sqlite" or not parts.database:
        return None
    try:
        parts.get_dialect()().create_connect_args(parts)  # reads values such as ?timeout=60
    except (TypeError, ValueError) as error:
        reason = hide_values(url, str(error))
        raise NsoptError(f"storage {hide_password(url)} cannot be used: {reason}") from None
    return Path(parts.database)


def journal_path(url: str) -> Path | None:
    """Return the file of a journal URL; None for other storages. Raises NsoptError if invalid."""
    parts = read_url(url)
    if parts.drivername != _JOURNAL:
        return None
    if parts.host or not parts.database:
        raise NsoptError(f"storage {hide_password(url)} names no file: write journal:///FILE")
    return Path(parts.database)


def is_proxy(url: str) -> bool:
    """Return whether a URL names Optuna's gRPC proxy."""
    return url.startswith(f"{_GRPC}://")


def hide_values(url: str, text: str) -> str:
    """Hide the secrets of a valid URL in any text, such as a driver's message.

    These are the password and the values after the question mark. Values of less than four
    characters stay, because they may be parts of other words.
    """
    parts = sqlalchemy.make_url(url)
    values = [parts.password, *chain.from_iterable(parts.normalized_query.values())]
    for value in values:
        if value and len(value) >= _SHORTEST:
            text = text.replace(value, _HIDDEN)
    return text


def hide_password(url: str) -> str:
    """Hide everything that may be a password in a text that a user gave as a URL.

    A password ends at the last @. The text after a question mark, and a port that is not a number,
    may be a password, too.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url if not set(url) & set("@=?") and url.count(":") < 2 else _HIDDEN
    is_file = rest.startswith("/") and scheme.partition("+")[0] in _FILES
    login, at, place = ("", "", rest) if is_file else rest.rpartition("@")
    if "?" in login or not _SCHEME.fullmatch(scheme):
        return _HIDDEN
    user, colon, _ = login.partition(":")
    shown = f"{scheme}://{user}{colon and f':{_HIDDEN}'}{at}"
    place, mark, _ = place.partition("?")
    host, slash, path = place.partition("/")
    if not _HOST.fullmatch(host):
        return f"{shown}{host.partition(':')[0]}:{_HIDDEN}"
    return f"{shown}{host}{slash}{path}{mark and f'?{_HIDDEN}'}"
