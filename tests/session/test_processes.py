"""Workers that a command starts: they end when it does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nsopt.files import is_being_done
from nsopt.session import processes
from nsopt.session.processes import run_local_workers
from tests.study.test_comparison import Listener

STARTER = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it may be ignored here
import nsopt.session.processes as processes
from nsopt.progress import Silent
class Told(Silent):
    def message(self, text):
        print(text, flush=True)
processes.WORKER = sys.executable, "-c", sys.argv[1], sys.argv[2]
with processes.run_local_workers([[]], "sqlite:///none.db", Told()):
    time.sleep(60)
"""
WORKER = """
import sys, time
from pathlib import Path
from nsopt.files import hold_lock
from nsopt.session.processes import end_with_starter
end_with_starter()
folder = Path(sys.argv[1])
with hold_lock(folder):
    print("working", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_workers_end_when_their_command_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, WORKER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"working\n"
        starter.send_signal(number)
    assert starter.returncode == -number
    deadline = time.monotonic() + 10
    while is_being_done(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_whose_command_has_ended_does_not_start() -> None:
    command = [sys.executable, "-m", "nsopt", "worker", "--child", "--study=none"]
    storage = os.environ | {processes.STORAGE_VARIABLE: "sqlite:///none.db"}
    how = {"env": storage, "stdin": subprocess.DEVNULL, "capture_output": True}
    done = subprocess.run(command, **how, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_a_worker_that_is_still_busy_is_terminated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SECONDS_TO_END", 0.5)
    busy = (sys.executable, "-c", "import time; time.sleep(600)")
    monkeypatch.setattr(processes, "WORKER", busy)
    listener, started = Listener(), time.monotonic()
    with run_local_workers([["one"], ["two"]], "sqlite:///none.db", listener):
        pass
    assert time.monotonic() - started < 5
    told = "nsopt ends a worker: other processes have already done its work"
    assert listener.messages == [told] * 2
