"""Storage URLs: made of a path, parsed, and shown without passwords."""

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
    shown = hide_password(url)
    invalid = NsoptError(
        f"storage {shown!r} is not a database URL such as sqlite:///results.db: write sqlite:/// "
        "before a file, %25, %3F and %40 for %, ? and @ in names and passwords, and a port up to "
        f"{_LARGEST_PORT}"
    )
    try:
        unquote(url, errors="strict").encode()  # SQLAlchemy would put U+FFFD in place of a `%xx`
        parts = sqlalchemy.make_url(url)
        if is_journal := parts.drivername == JOURNAL:
            is_odd = bool(parts.query)
        else:
            dialect = parts.get_dialect()
            is_odd = (parts.port or 0) > _LARGEST_PORT or shown == _HIDDEN
            if dialect.name == SQLITE:
                with warnings.catch_warnings(action="error", category=SAWarning):
                    dialect().create_connect_args(parts)  # refuses unknown options
    except NoSuchModuleError:
        raise NsoptError(f"storage {shown} is of an unknown kind: use {_KINDS}") from None
    except (ArgumentError, SAWarning, TypeError, ValueError):
        raise invalid from None
    if is_odd:
        raise invalid
    if is_journal and (parts.host or not parts.database):
        raise NsoptError(f"storage {shown} names no file: write journal:///FILE")
    if not is_journal and dialect.name == SQLITE and parts.database in (None, "", _IN_MEMORY):
        raise NsoptError("a database in memory is lost at the end: write sqlite:///FILE")
    return parts


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
