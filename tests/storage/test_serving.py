"""A storage served by Optuna's proxy, and messages of `nsopt proxy`."""

import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.trial import Trial, TrialState

from nsopt.errors import NsoptError
from nsopt.storage import heartbeats, queue, servers
from nsopt.storage.internals import make_server
from nsopt.storage.opening import open_storage
from nsopt.storage.queue import Watch, claim, heartbeat, run
from nsopt.storage.serving import check_address, serve_proxy
from nsopt.storage.trials import write_run
from tests.conftest import call_nsopt, free_port
from tests.storage.test_queue import Job

pytest.importorskip("grpc")


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@contextmanager
def serve(database: str, port: int) -> Iterator[None]:
    """Serve a database by a proxy in a thread of this process."""
    server = make_server(open_storage(database), "localhost", port)
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def test_the_trial_of_a_dead_process_is_queued_again_behind_a_proxy(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "DEAD_AFTER_SECONDS", 0.5)
    monkeypatch.setattr(queue, "HEARTBEAT_SECONDS", 0.3)
    port = free_port()
    with serve(database, port):
        storage = open_storage(f"grpc://localhost:{port}")
        assert isinstance(storage, servers.ProxiedStorage)
        study = optuna.create_study(storage=storage)
        study.enqueue_trial({}, user_attrs={"point": 1})
        trial, watch = claim(study, study.trials, Job()), Watch()
        assert trial is not None
        assert claim(study, study.trials, Job()) is None
        write_run(Trial(study, trial._trial_id), {})
        with heartbeat(storage, trial._trial_id):
            for _ in range(4):
                assert watch.look(study)
                storage.record_heartbeat(trial._trial_id)
                time.sleep(0.2)
        assert [t.state for t in study.trials] == [TrialState.RUNNING]
        deadline = time.monotonic() + 10
        while watch.look(study) and len(study.trials) == 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        dead, retried = study.trials
        assert (dead.state, retried.state) == (TrialState.FAIL, TrialState.WAITING)
        worker = f"{platform.node()}:{os.getpid()}"
        assert retried.user_attrs == {"point": 1, "worker": worker, "provenance": ""}
        assert not run(study, trial, Job())
        storage.close()


def test_a_proxy_can_restart_before_the_first_parameter_of_a_trial(database: str) -> None:
    port = free_port()
    with serve(database, port):
        storage = open_storage(f"grpc://localhost:{port}")
        study = optuna.create_study(storage=storage)
        study.enqueue_trial({"width": 3})
        trial = claim(study, study.trials, Job())
    assert trial is not None
    with serve(database, port):
        assert run(study, trial, Job(lambda trial: [trial.suggest_int("width", 1, 9)]))
        (done,) = study.trials
        assert (done.params, done.values) == ({"width": 3}, [3.0])
        assert isinstance(storage, servers.ProxiedStorage)
        storage.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_proxy_ends_at_sigint_and_sigterm(database: str, number: signal.Signals) -> None:
    port, answers = free_port(), []

    def ready() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            answers.append(port)
        os.kill(os.getpid(), number)

    before = {known: signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM)}
    try:
        serve_proxy(database, "127.0.0.1", port, ready)
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
    assert answers == [port]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--port=0"], "--port must be from 1 to 65535, got 0"),
        (["--storage=grpc://proxy:13000"], "is a proxy: give --storage the database behind it"),
        (["--storage=journal:///study.journal"], "cannot serve a journal: give --storage a data"),
        (["--storage=study.db"], "is not a database URL"),
    ],
)
def test_a_proxy_that_cannot_serve_fails_in_one_line(
    database: str, monkeypatch: pytest.MonkeyPatch, options: list[str], part: str
) -> None:
    monkeypatch.setenv("NSOPT_STORAGE", database)
    check_error(options, part)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("192.0.2.1", 18080, "give an address of this machine as --host"),
        ("no such host", 18080, "give an address of this machine as --host"),
        ("a" * 300, 18080, "give an address of this machine as --host"),
        ("127.0.0.1", 0, "--port must be from 1 to 65535"),
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
        with pytest.raises(NsoptError, match="try another --port"):
            check_address("127.0.0.1", taken.getsockname()[1])
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        check_address("::1", free_port())


def test_a_proxy_does_not_share_the_port_of_another(database: str) -> None:
    """gRPC itself would share it, and clients would reach either proxy."""
    port = free_port()
    with serve(database, port):
        options = [f"--storage={database}", "--host=localhost", f"--port={port}"]
        check_error(options, f"cannot serve on localhost:{port} (Address already in use)")


def test_a_proxy_without_grpc_names_the_extra(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    check_error([f"--storage={database}"], "pip install 'nsopt[cluster]'")


def check_error(options: list[str], part: str) -> None:
    done = call_nsopt("proxy", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1
