"""Real data and small networks that the tests share.

The process that only hands tests to workers imports this file, too, and needs no torch.
"""

import dataclasses
import gc
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from nsopt.errors import NsoptError
from nsopt.models import registry
from nsopt.models.registry import get_architecture
from tests.forked import read_files_once, start_nsopt
from tests.rescaled import with_base_widths

if TYPE_CHECKING:
    from nsopt.data.images import ImageData
    from nsopt.models.architecture import Architecture

# Containers often set this. Then each of the processes here would compile all of torch again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_MEMORY = Path("/dev/shm")  # Linux's folder in memory: SQLite does not wait for a disk
_ROOM = 2**30
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
    os.environ.setdefault("TMPDIR", str(_MEMORY))
    tempfile.tempdir = None  # pytest has looked it up before
os.environ["COLUMNS"] = "160"
os.environ["OMP_NUM_THREADS"] = "1"  # the networks here are too small to share
vars(registry)["_make_own"] = cache(registry._make_own.__wrapped__)  # each is traced once
# Machines differ, and so do their loads; every run draws other examples.
settings.register_profile("nsopt", deadline=None, max_examples=50)
settings.load_profile("nsopt")

_LAST = ("cli", "reports", "scaling")  # folders of short files, so that workers end together

EXACT: dict[str, Any] = {"device": "cpu", "precision": "fp32"}  # of trainings, everywhere alike
BRIEF: dict[str, Any] = {**EXACT, "pretrain_epochs": 1, "prune_every": 2}  # of searches
REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
GOLDEN = Path(__file__).parent / "golden"


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """Each file runs on one worker, and so does the folder whose tests share a child process."""

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.rpartition("/simulated_device/")[0]
        return folder or super()._split_scope(nodeid)


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests, and the commands that they run, a cache of their own."""
    cache = tempfile.TemporaryDirectory(prefix="nsopt-cache-")
    config.add_cleanup(cache.cleanup)
    os.environ["XDG_CACHE_HOME"] = cache.name


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name in _LAST)
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared_data"):
                item.add_marker(pytest.mark.skip(reason=f"no data at {SHARED.name}/"))


def pytest_collection_finish() -> None:
    """Exclude imported modules, a million objects that are never freed, from garbage collection."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def digits() -> "ImageData":
    """160 training and 40 test digits."""
    return first_digits(160, 40)


def first_digits(train: int, test: int) -> "ImageData":
    """Return the first training and test digits."""
    from nsopt.data.registry import load_data

    data = load_data("digits")
    train_set, test_set = data.train.take(range(train)), data.test.take(range(test))
    return dataclasses.replace(data, train=train_set, test=test_set)


@pytest.fixture(scope="session")
def vgg11() -> "Architecture":
    """VGG11 for CIFAR-10."""
    return get_architecture("vgg11")


@pytest.fixture(scope="session")
def narrow() -> "Architecture":
    """VGG11 for digits, a sixteenth as wide: trains in seconds."""
    arch = get_architecture("vgg11", num_classes=10, in_channels=1)
    return with_base_widths(arch, tuple(w // 16 for w in arch.base_widths))


@pytest.fixture
def slim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process build a slim VGG11."""
    from tests.slim import slim_vgg11

    slim_vgg11(monkeypatch)


@pytest.fixture(scope="session", autouse=True)
def _measure_briefly() -> Iterator[None]:
    """Time the networks of studies with few passes."""
    from tests.latency.brief import measure_briefly

    with pytest.MonkeyPatch.context() as patch:
        measure_briefly(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _read_files_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        read_files_once(patch)
        yield


@pytest.fixture(autouse=True)
def _seed_torch() -> None:
    """Start every test from the same global random numbers."""
    import torch

    torch.manual_seed(0)


def run_nsopt(*arguments: str, module: str = "nsopt.study") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return start_nsopt(*arguments, module=module).finish()


@contextmanager
def one_line(match: str) -> Iterator[None]:
    """Assert that the block raises an error for users, of one line that matches."""
    with pytest.raises(NsoptError, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call_nsopt(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which has imported everything."""
    from nsopt.cli.app import main

    output, errors = io.StringIO(), io.StringIO()
    interrupt, code = signal.getsignal(signal.SIGINT), 0
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())
