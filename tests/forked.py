"""Processes that start with torch and nsopt imported.

A new Python process spends 4 to 5 s on imports before a command begins. multiprocessing's fork
server did them once, in a single thread, and forks every process from there within milliseconds.
Signals, exit codes and output are those of any other process.
"""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import pytest

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        *("cyclopts", "rich.markdown", "rich.progress", "nsopt.study.plan"),
        *("nsopt.study.tuning", "nsopt.latency.model", "nsopt.reports.page"),
        *("nsopt.reports.dashboard", "nsopt.deployment.export", "torch._dynamo"),
        *("sklearn.datasets", "sklearn.linear_model", "sklearn.model_selection"),
        *("alembic.command", "optuna.storages._rdb.models", "sqlalchemy.dialects.sqlite"),
        *("optuna_dashboard", "plotly.graph_objects", "plotly.io", "rich._emoji_codes"),
        *("onnxruntime", "torch.onnx._internal.exporter._core"),
        *("tests.conftest", "tests.warm"),
    ]
)


class Forked:
    """A function running in a process of its own, with its output in files.

    Args:
        function: what runs, of a module that the process can import
        arguments: its arguments
        cwd: the working directory; by default ours
        env: the environment variables; by default ours

    Leaving the `with` statement kills the process and removes the files, also its temporary ones.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nsopt-", ignore_cleanup_errors=True)
        self._files = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        environment = {**(os.environ if env is None else env), "TMPDIR": self._folder.name}
        place = cwd or Path.cwd(), environment
        self._process = _SERVER.Process(
            target=_begin, args=(self._files, place, function, arguments), daemon=True
        )
        self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, negative after a signal, or None while the process runs."""
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        """Send a signal to the process unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def written(self) -> tuple[str, str]:
        """Return what the process has written so far to stdout and to stderr."""
        stdout, stderr = (file.read_text() for file in self._files)
        return stdout, stderr

    def wait(self, timeout: float = 300) -> int:
        """Return the exit code once the process has ended; TimeoutExpired after `timeout` s."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return code

    def finish(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Wait for the end, or kill the process after `timeout` s; return its code and output."""
        with self:
            return subprocess.CompletedProcess([], self.wait(timeout), *self.written())


class ForkedWorker:
    """`nsopt worker` in a process of its own, in place of the Popen of `nsopt.session.processes`.

    Args:
        arguments: those of the worker
        environment: its environment variables
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        given, self.stdin = _SERVER.Pipe(duplex=False)
        lines, written = _SERVER.Pipe(duplex=False)
        self.stdout = os.fdopen(os.dup(lines.fileno()))
        self.returncode: int | None = None
        place = Path.cwd(), dict(environment)
        self._process = _SERVER.Process(
            target=_begin_worker, args=(given, written, place, arguments), daemon=True
        )
        self._process.start()
        for end in (given, lines, written):
            end.close()
        self._ended = Event()
        Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Wait in one thread: multiprocessing reads an exit code only once."""
        self._process.join()
        self.returncode = self._process.exitcode
        self._ended.set()

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code once the process has ended; TimeoutExpired after `timeout` s."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self.returncode

    def terminate(self) -> None:
        self._process.terminate()


def read_files_once(patch: pytest.MonkeyPatch) -> None:
    """Cache files: Optuna reads all migrations of its tables whenever it opens a database, and
    onnxscript parses the Python of all operators for every file that it writes."""
    import alembic.util
    import sklearn.datasets

    patch.setitem(vars(_onnxscript()), "get_torchlib_ops", read_operators)
    patch.setattr(alembic.util, "load_python_file", cache(alembic.util.load_python_file))
    patch.setattr(sklearn.datasets, "load_digits", cache(sklearn.datasets.load_digits))


@cache
def read_operators() -> Any:
    """Return onnxscript's operators."""
    return import_module(_onnxscript()._name).get_torchlib_ops()


def _onnxscript() -> Any:
    """Return what PyTorch's exporter uses of onnxscript, which it imports when it needs it."""
    return import_module("torch.onnx._internal._lazy_import").onnxscript_apis


def start_nsopt(*arguments: str, module: str = "nsopt", **place: Any) -> Forked:
    """Start `python -m module arguments`."""
    return Forked(run_module, module, arguments, **place)


def run_module(module: str, arguments: Sequence[str]) -> None:
    """Run `python -m module arguments`, and time networks with few passes."""
    from tests.latency.brief import measure_briefly

    measure_briefly(pytest.MonkeyPatch())
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_code(code: str, *arguments: str) -> None:
    """Run `python -c code arguments`."""
    sys.argv[1:] = arguments
    exec(code, {"__name__": "__main__"})


def _begin(
    files: list[Path],
    place: tuple[Path, dict[str, str]],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    _go_to(*place)
    function(*arguments)


def _begin_worker(
    given: Connection,
    written: Connection,
    place: tuple[Path, dict[str, str]],
    arguments: Sequence[str],
) -> None:
    for number, end in enumerate((given, written, written)):
        os.dup2(end.fileno(), number)
    _go_to(*place)
    run_module("nsopt", ("worker", *arguments))


def _go_to(cwd: Path, environment: dict[str, str]) -> None:
    gc.freeze()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
