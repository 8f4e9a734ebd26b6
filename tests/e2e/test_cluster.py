"""Many workers on one storage server: some of them are killed, and the server crashes."""

import contextlib
import gc
import getpass
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from nsopt.reports.results import read_results
from nsopt.storage import opening
from nsopt.storage.trials import read_worker
from tests.conftest import free_port
from tests.forked import Forked
from tests.slim import run_impatiently

NAME = "vgg11-digits-60each-smoke"
STUDY = (
    *("--seeds=2", "--per-class=60", "--batch-size=32", "--precision=fp32", "--device=cpu"),
    *("--pretrain-epochs=0", "--prune-every=1", "--filters-per-step=100"),
)


def make_points(ratios: Sequence[float], *methods: str) -> set[tuple[str, float, int]]:
    return {(method, ratio, seed) for method in methods for ratio in ratios for seed in range(2)}


def find_program(name: str) -> str:
    """Return a program of PostgreSQL's server; skip the test if it is not installed."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = next((str(p / name) for p in places if (p / name).is_file()), shutil.which(name))
    if found is None:
        pytest.skip("PostgreSQL's server is not installed")
    return found


@dataclass(frozen=True)
class Server:
    """A throw-away PostgreSQL server. It refuses to run as root, so `nobody` runs it."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://nsopt@127.0.0.1:{self.port}/postgres"

    def run(self, name: str, *arguments: str) -> None:
        user = "nobody" if os.geteuid() == 0 else None
        with (self.folder / "output").open("ab") as output:
            subprocess.run(
                [find_program(name), *arguments],
                cwd=self.folder,
                user=user,
                stdout=output,
                stderr=output,
                check=True,
                timeout=60,
            )

    def create(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody")
        self.run("initdb", "--pgdata=data", "--username=nsopt", "--auth=trust", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self.run("pg_ctl", "start", "--wait", "--pgdata=data", "--log=log", f"--options={options}")

    def stop(self) -> None:
        """Stop it like a crash."""
        self.run("pg_ctl", "stop", "--wait", "--pgdata=data", "--mode=immediate")


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    find_program("initdb")
    with tempfile.TemporaryDirectory(prefix=f"{getpass.getuser()}-pg-") as folder:
        server = Server(Path(folder), free_port())
        server.create()
        yield server
        server.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def read_trials(storage: BaseStorage) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of the compared methods."""
    return [
        trial
        for name in optuna.get_all_study_names(storage)
        if not name.endswith("/search")
        for trial in optuna.load_study(study_name=name, storage=storage).trials
    ]


def find_trials(storage: BaseStorage, state: TrialState) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in read_trials(storage) if trial.state == state]


def find_running(storage: BaseStorage) -> list[tuple[int, str | None]]:
    """Return the running trials, each with its process."""
    found = find_trials(storage, TrialState.RUNNING)
    return [(trial._trial_id, read_worker(trial)) for trial in found]


def stop_if_all_run_a_trial(
    processes: Sequence[Forked], names: set[str], storage: BaseStorage
) -> bool:
    """Stop all processes if each of them runs a trial; return whether they are stopped."""
    if not names <= {worker for _, worker in find_running(storage)}:
        return False
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)  # what they have sent arrives
    if names <= {worker for _, worker in find_running(storage)}:
        return True
    for process in processes:
        process.send_signal(signal.SIGCONT)
    return False


def count_points(found: list[optuna.trial.FrozenTrial]) -> Counter[tuple]:
    return Counter(tuple(t.user_attrs[k] for k in ("method", "ratio", "seed")) for t in found)


def assert_each_point_once(storage: BaseStorage, expected: Collection[tuple]) -> None:
    found = read_trials(storage)
    complete = [trial for trial in found if trial.state == TrialState.COMPLETE]
    assert count_points(complete) == Counter(expected)
    # Two processes may enqueue a point again: neither knows whether its call got through.
    others = [trial for trial in found if trial.state != TrialState.COMPLETE]
    assert all("duplicate_of" in trial.user_attrs for trial in others)


def test_a_study_survives_killed_workers_and_a_server_crash(server: Server, tmp_path: Path) -> None:
    join = ("worker", f"--storage={server.url}", f"--study={NAME}", f"--out={tmp_path / 'more'}")
    storage = opening.open_storage(server.url)
    expected = make_points([0.16, 0.24], "uniform", "neuralscale")
    with contextlib.ExitStack() as stack:
        command = (
            *("study", "--methods=uniform,neuralscale", "--ratios=0.16,0.24", "--epochs=3"),
            *(*STUDY, f"--storage={server.url}", f"--out={tmp_path / 'out'}"),
        )
        main = stack.enter_context(Forked(run_impatiently, "nsopt", command))
        wait_until(lambda: len(read_trials(storage)) == len(expected))
        others = [stack.enter_context(Forked(run_impatiently, "nsopt", join)) for _ in range(3)]
        victims = {f"{platform.node()}:{process.pid}" for process in others[:2]}
        wait_until(lambda: stop_if_all_run_a_trial(others[:2], victims, storage))
        left = {trial for trial, worker in find_running(storage) if worker in victims}
        for process in others[:2]:
            process.send_signal(signal.SIGKILL)
            process.wait()
        server.stop()
        time.sleep(4)
        server.start()
        assert main.wait(timeout=200) == 0, main.written()
        assert others[2].wait(timeout=60) == 0, others[2].written()
    assert_each_point_once(storage, expected)
    again = [trial for trial in read_trials(storage) if trial._trial_id in left]
    assert len(again) == 2
    assert not victims & {read_worker(trial) for trial in again}
    results = read_results(server.url)
    assert len(results.outcomes) == len(expected)
    assert (tmp_path / "out" / "report" / "index.html").is_file()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["artifacts", "report"]


# The connections of those that are too late close when Python collects them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_many_threads_can_create_the_same_database_at_once(server: Server) -> None:
    together = threading.Barrier(8, timeout=60)

    def create(_: int) -> None:
        together.wait()
        opening.open_storage(server.url)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(create, range(8))) == [None] * 8
    gc.collect()  # here, not in a test that comes later
