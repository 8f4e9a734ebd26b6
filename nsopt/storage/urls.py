"""Storage URLs: made of a path, parsed, and shown without passwords."""

import errno
import socket
import warnings
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

import sqlalchemy
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SAWarning

from nsopt.errors import NsoptError

JOURNAL, SQLITE = "journal", "sqlite"
_HIDDEN, _IN_MEMORY = "***", ":memory:"
_SHORTEST = 4  # shorter values of a URL are not hidden in other text: they may be parts of words
_LARGEST_PORT = 65535
_KINDS = (
    "sqlite:///FILE, journal:///FILE, or a server: postgresql+psycopg://..., mysql+pymysql://..."
)


def sqlite_url(path: Path) -> str:
    """Return the storage URL of an SQLite file. It quotes `%`, `?` and other special characters."""
    return URL.create(SQLITE, database=str(path)).render_as_string(hide_password=False)


def read_url(url: str) -> URL:
    """Parse a storage URL. Raises NsoptError if it is invalid."""
    _check_characters(url)
    shown = hide_password(url)
    advice = f"the port must be a number up to {_LARGEST_PORT}, and an @ in the password must be"
    is_file = "://" not in url and "@" not in url
    advice = "write sqlite:/// before a file" if is_file else f"{advice} written %40"
    invalid = NsoptError(
        f"storage {shown!r} is not a database URL such as sqlite:///results.db: {advice}"
    )
    try:
        parts = sqlalchemy.make_url(url)
        if parts.drivername != JOURNAL:
            parts.get_dialect()
    except NoSuchModuleError:
        raise NsoptError(f"storage {shown} is of an unknown kind: use {_KINDS}") from None
    except (ArgumentError, ValueError):
        raise invalid from None
    if (parts.port or 0) > _LARGEST_PORT or shown == _HIDDEN:
        raise invalid
    if parts.get_backend_name() == SQLITE:
        _check_options(parts, shown, url)
    if parts.drivername == JOURNAL and (parts.host or not parts.database):
        raise NsoptError(f"storage {shown} names no file: write journal:///FILE")
    if parts.drivername == JOURNAL and parts.query:
        raise _refuse_options(shown)
    if parts.get_backend_name() == SQLITE and parts.database in (None, "", _IN_MEMORY):
        raise NsoptError("a database in memory is lost at the end: write sqlite:///FILE")
    return parts


def _check_characters(url: str) -> None:
    """Raise NsoptError for what is no UTF-8; SQLAlchemy would put U+FFFD in place of a `%xx`."""
    try:
        unquote(url, errors="strict").encode()
    except UnicodeEncodeError:
        raise NsoptError(
            "Python cannot read the storage URL here: set the variable PYTHONUTF8=1"
        ) from None
    except UnicodeDecodeError:
        raise NsoptError(
            "the storage URL has a % whose two digits are no character: write %25 for %"
        ) from None


def _check_options(parts: URL, shown: str, url: str) -> None:
    """Raise NsoptError for options that an SQLite driver does not know, or cannot read, such as
    `?timeout=word`."""
    try:
        with warnings.catch_warnings(action="error", category=SAWarning):
            parts.get_dialect()().create_connect_args(parts)
    except SAWarning:
        raise _refuse_options(shown) from None
    except (TypeError, ValueError, ArgumentError) as error:
        reason = hide_values(url, str(error))
        raise NsoptError(f"storage {shown} cannot be used: {reason}: correct the URL") from None


def _refuse_options(shown: str) -> NsoptError:
    """Return the error for unknown options after the name of a file."""
    return NsoptError(
        f"storage {shown} is followed by a ? and unknown options: write %3F for a ? in the name of "
        "a file"
    )


def storage_file(url: str) -> Path | None:
    """Return the file of an SQLite database or a journal; None for servers."""
    parts = read_url(url)
    is_file = parts.get_backend_name() in (SQLITE, JOURNAL) and parts.database
    return Path(str(parts.database)) if is_file else None


def is_sqlite(url: str) -> bool:
    return read_url(url).get_backend_name() == SQLITE


def hide_password(url: str) -> str:
    """Return a text that a user gave as a URL without its password and options.

    A text that is not a URL, but may contain a password, is hidden completely.
    """
    try:
        url.encode()  # raises ValueError where Python cannot read it
        parts = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):
        return _HIDDEN if set(url) & set(":@=?") else url
    is_file = parts.get_backend_name() in (SQLITE, JOURNAL) and not parts.host
    if "@" in f"{parts.host}{parts.database}" and not is_file:  # of a password with an @
        return _HIDDEN
    return parts.set(query={}).render_as_string(hide_password=True)


def hide_values(url: str, text: str) -> str:
    """Hide the password and the options of a valid URL in a text, such as a driver's message."""
    parts = sqlalchemy.make_url(url)
    for value in (parts.password, *chain.from_iterable(parts.normalized_query.values())):
        if value and len(value) >= _SHORTEST:
            text = text.replace(value, _HIDDEN)
    return text


def check_address(host: str, port: int) -> None:
    """Raise NsoptError if nsopt cannot serve on an address."""
    if not 0 < port <= _LARGEST_PORT:
        raise NsoptError(f"port= must be from 1 to {_LARGEST_PORT}, got {port}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        is_taken = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        option = "port=" if is_taken else "host="
        reason = getattr(error, "strerror", None) or error
        raise NsoptError(
            f"cannot serve on {host}:{port} ({reason}): try another {option}"
        ) from None
