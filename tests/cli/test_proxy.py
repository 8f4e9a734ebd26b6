"""Messages of `nsopt proxy`; tests/e2e/test_cluster.py has workers that share one."""

import socket
import sys
from pathlib import Path

import pytest

from nsopt.errors import NsoptError
from nsopt.storage.urls import check_address, sqlite_url
from tests.conftest import call_nsopt, free_port
from tests.storage.test_engine import serve

URL = "sqlite:///study.db"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--port=0"], "--port must be from 1 to 65535, got 0"),
        (["--storage=grpc://proxy:13000"], "is no database: give --storage the database itself"),
        (["--storage=journal:///study.journal"], "is no database: give --storage the database"),
        (["--storage=study.db"], "is not a database URL"),
    ],
)
def test_a_proxy_that_cannot_serve_fails_in_one_line(
    monkeypatch: pytest.MonkeyPatch, options: list[str], part: str
) -> None:
    pytest.importorskip("grpc")
    monkeypatch.setenv("NSOPT_STORAGE", URL)
    check_error(options, part)


def test_a_proxy_does_not_share_the_port_of_another(tmp_path: Path) -> None:
    """gRPC itself would share it, and clients would reach either proxy."""
    port, url = free_port(), sqlite_url(tmp_path / "study.db")
    with serve(url, port):
        options = [f"--storage={url}", "--host=localhost", f"--port={port}"]
        check_error(options, f"cannot serve on localhost:{port} (Address already in use)")


def test_a_proxy_without_grpc_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    check_error([f"--storage={URL}"], "pip install 'nsopt[cluster]'")


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("192.0.2.1", 18080, "try another host="),
        ("no such host", 18080, "try another host="),
        ("a" * 300, 18080, "try another host="),
        ("127.0.0.1", 0, "port= must be from 1 to 65535"),
    ],
)
def test_an_address_that_cannot_be_served_names_the_option(
    host: str, port: int, message: str
) -> None:
    with pytest.raises(NsoptError, match=message):
        check_address(host, port)


def test_addresses_of_both_versions_can_be_served() -> None:
    check_address("127.0.0.1", free_port())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(NsoptError, match="try another port="):
            check_address("127.0.0.1", taken.getsockname()[1])
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        check_address("::1", free_port())


def check_error(options: list[str], part: str) -> None:
    done = call_nsopt("proxy", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1
