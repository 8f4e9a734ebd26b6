"""Serve a storage to other processes with Optuna's gRPC proxy; check addresses."""

import errno
import signal
import socket
from collections.abc import Callable
from threading import Event

from nsopt.errors import NsoptError
from nsopt.storage.internals import make_server
from nsopt.storage.opening import open_storage
from nsopt.storage.urls import hide_password, is_proxy, journal_path

_LARGEST_PORT = 65535
_SECONDS_TO_ANSWER = 5.0


def serve_proxy(url: str, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve the storage at `url` through Optuna's gRPC proxy, until SIGINT or SIGTERM.

    Running calls then have a few seconds to end.

    Args:
        url: the storage.
        host: name or address on which to serve.
        port: port on which to serve.
        ready: called when clients can connect.

    Raises:
        NsoptError: if the storage or the address cannot be used.
    """
    if is_proxy(url):
        raise NsoptError(f"{hide_password(url)} is a proxy: give --storage the database behind it")
    if journal_path(url) is not None:
        raise NsoptError("Optuna's proxy cannot serve a journal: give --storage a database")
    check_address(host, port)
    server = make_server(open_storage(url), f"[{host}]" if ":" in host else host, port)
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server.start()
    ready()
    ended.wait()
    server.stop(_SECONDS_TO_ANSWER).wait()


def check_address(host: str, port: int) -> None:
    """Raise NsoptError if nsopt cannot serve on an address."""
    if not 0 < port <= _LARGEST_PORT:
        raise NsoptError(f"--port must be from 1 to {_LARGEST_PORT}, got {port}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        is_taken = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        cure = "try another --port" if is_taken else "give an address of this machine as --host"
        reason = getattr(error, "strerror", None) or error
        raise NsoptError(f"cannot serve on {host}:{port} ({reason}): {cure}") from None
